"""The page of all measures and keys, written from the tables that declare them."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Sequence

from lightning_gengap.measures import MEASURED, MEASURES, Measure
from lightning_gengap.measures.key import CELLS, Key
from lightning_gengap.monitor.logged_keys import PREDICTED, PREFIX

_MEASURES = """\
# Measures and keys

Written by `gengap measures` from `lightning_gengap.measures`, `lightning_gengap.measures.keys` and
`lightning_gengap.measures.invariances`; the tests verify what stands here.

## Measures

`GapMonitor(measures=[...])` and `measure(..., measures=[...])` take these names. *Cost* is that of a first
measurement, in forward passes over 1,024 samples: a backward pass through the activations alone counts as one, a full
one as two; the margins, which are always taken, count only for themselves. It is right within 30 % on the tests'
network, with an upper bound (≤) where it depends on the model; the time of what stands under *besides* is in it as a
guess. *By place*: what a sample draws at random goes by its place among the samples, so that another order of them is
another draw; so is which samples curvature and leave-one-out take where there are more than they need. Nothing else
depends on the order, and nothing on the size of the batches.
"""
_KEYS = f"""
## Keys

Logged under `{PREFIX}`. The last three columns say what leaves a value as it is: *logits*, a scaling of them by the
last layer's weights and bias; *relu*, a rescaling of consecutive layers around their ReLUs, one factor per layer;
*batch norm*, a rescaling of the weights in front of a batch norm, statistics included. The initial weights stay.

{chr(10).join(f"* {cell}: {meaning}" for cell, meaning in CELLS.items())}
"""


def catalogue() -> str:
    """All measures and keys as a page of Markdown; `docs/measures.md` is this page.

    What a measure computes, and where it is undefined, is in the docstring of its function.
    """
    facts = {key: entry for key, entry in MEASURED.items() if not entry.measure} | PREDICTED
    measures = _table(
        ("measure", "taken", "cost", "besides", "by place", "what it gives", "reference"),
        (_measure_row(name, entry) for name, entry in MEASURES.items()),
    )
    keys = _table(
        ("key", "measure", "unit", "range", "meaning", "logits", "relu", "batch norm"),
        (
            (f"`{key}`", entry.measure, entry.unit, _range(entry), entry.meaning, *(entry.invariances or ("", "", "")))
            for key, entry in MEASURED.items()
            if entry.measure
        ),
    )
    others = _table(
        ("key", "unit", "range", "meaning"),
        ((f"`{key}`", entry.unit, _range(entry), entry.meaning) for key, entry in facts.items()),
    )
    title = "\n## Facts of the run, and what is predicted\n"
    return "\n".join([_MEASURES, *measures, _KEYS, *keys, title, *others, ""])


def _measure_row(name: str, entry: Measure) -> Sequence[str]:
    taken = "once" if entry.per_training else "each time"
    taken = f"on request, {taken}" if not entry.by_default else taken
    cost = f"{entry.forwards:g}" + (f" (≤ {entry.at_most:g})" if entry.at_most else "")
    text = inspect.getdoc(entry.function) or ""
    return (
        f"`{name}`",
        taken,
        cost,
        entry.besides,
        "yes" if entry.drawn_by_place else "",
        _first_sentence(text),
        _papers(text),
    )


def _first_sentence(docstring: str) -> str:
    return docstring.partition("\n\n")[0].replace("\n", " ").removesuffix(".")


def _papers(docstring: str) -> str:
    found = re.search(r"References?:\s+(.*)", docstring, re.DOTALL)
    return "" if found is None else " ".join(found[1].split()).removesuffix(".")


def _range(entry: Key) -> str:
    if math.isinf(entry.low) and math.isinf(entry.high):
        return "unbounded"
    return f"{entry.low:g} and up" if math.isinf(entry.high) else f"{entry.low:g} to {entry.high:g}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
