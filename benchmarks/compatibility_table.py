"""The page of the architectures that compatibility.py has tried, from its rows."""

import csv
import platform
import re
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from textwrap import wrap

from compatible_models import IMAGES, OTHERS, SMALL

BATCHES, EPOCHS = 2, 2
_PREDICTIONS = {"0": "yes", "1": "not then", "3": "abstains for now", "5": "always abstains"}  # by status
_IDENTICAL = {"True": "yes", "False": "no"}
_NAMES = re.compile(r"'?\bnet(\.\w+)*\b'?")  # of modules


def rows_of(out: Path) -> list[dict[str, str]]:
    if not out.exists():
        return []
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]]) -> str:
    """The rows in Markdown: first their counts, then what is absent and why, then each architecture."""
    of_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in dict.fromkeys(_column(rows, "kind"))}
    counts = [(kind, *_counts(some)) for kind, some in of_kind.items()] + [("all", *_counts(rows))]
    notes = Counter(note for row in rows for note in _notes(row))
    numbers = {note: str(place) for place, (note, _) in enumerate(notes.most_common(), 1)}
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "lightning"))
    lines = [
        "# Architectures that were tried",
        "",
        f"`make compat` wrote this page, with Python {platform.python_version()}, {versions} on CPUs.",
        "",
        *_lines(("kind", "tried", "measured", "identical to the twin", "said nothing without a reason"), counts),
        "",
        *wrap(_HOW, 120),
        "",
        "## What is absent or said, and why",
        "",
        *(f"{numbers[note]}. ({count}) {note}" for note, count in notes.most_common()),
        "",
        "The count of architectures stands in parentheses.",
        "",
        "## Each architecture",
        "",
    ]
    columns = ("kind", "architecture", "parameters", "outcome", "prediction", "identical", "seconds", "without")
    shown = [
        (
            *(row["kind"], row["name"], _thousands(row["parameters"]), row["outcome"]),
            *(_PREDICTIONS.get(row["status"], ""), _IDENTICAL.get(row["identical"], row["identical"])),
            *(row["seconds"], row["without"], row["margins"], " ".join(numbers[note] for note in _notes(row))),
        )
        for row in rows
    ]
    return "\n".join([*lines, *_lines((*columns, "margins", "absent or said"), shown)]) + "\n"


_HOW = f"""Each architecture is trained twice for {EPOCHS} epochs of {BATCHES} batches, with `GapMonitor()` and without.
It sees {IMAGES} images of the smallest side that it takes of {", ".join(map(str, SMALL))} pixels, or half as many of
its usual side; on other data it sees {OTHERS} samples. *Measured* means that the monitor stayed on to the end.
*Identical* means that all weights and buffers, the optimizer's state, and the next random numbers of torch, NumPy and
Python are those of the twin, bit for bit. Then all default measures are taken. What is absent has a number, under which
the reason stands. {IMAGES} images are fewer than the default predictor was fitted on, so the prediction abstains there.
*Margins* are the layers that have some. *Seconds* are CPU seconds of one thread for the whole training, with the
monitor (its start included) and without. Trainings so short pay for the start alone, on a machine that was shared: the
seconds show what is out of proportion, not what the monitor costs ([measured costs](acting.md))."""


def _column(rows: list[dict[str, str]], name: str) -> list[str]:
    return [row[name] for row in rows]


def _counts(rows: list[dict[str, str]]) -> tuple[int, int, int, int]:
    measured_ones = [row for row in rows if row["outcome"] == "works"]
    explained = sum(not row["unexplained"] for row in measured_ones)
    return len(rows), len(measured_ones), _column(rows, "identical").count("True"), explained


def _notes(row: dict[str, str]) -> list[str]:
    """What was said of one architecture, without the names of its modules, so that equal sentences are counted."""
    said = (note.removeprefix("GapMonitor: ") for note in f"{row['absent']} | {row['said']}".split(" | "))
    silent = [f"absent without a reason: {row['unexplained']}"] if row["unexplained"] else []
    return [*dict.fromkeys(_NAMES.sub("...", note.removesuffix(".")) for note in said if note), *silent]


def _thousands(number: str) -> str:
    return f"{int(number):,}" if number else ""


def _lines(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """A table in Markdown."""
    written = [[str(cell).replace("|", "/") for cell in row] for row in (list(head), *rows)]
    written.insert(1, ["---"] * len(written[0]))
    return ["| " + " | ".join(row) + " |" for row in written]
