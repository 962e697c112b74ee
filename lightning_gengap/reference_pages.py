"""Pages about measures and keys, written from what the registry declares."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Sequence

from lightning_gengap.measures import MEASURED, MEASURES, get_measure
from lightning_gengap.measures.key import CELLS, Key
from lightning_gengap.measures.measure import Measure
from lightning_gengap.monitor.logged_keys import PREDICTED, PREFIX

_MEASURES = """\
# Measures and keys

Written by `gengap measures` from `lightning_gengap.measures`; the tests verify what stands here.

## Measures

`GapMonitor(measures=[...])` and `measure(..., measures=[...])` take these names. *Cost* is that of a first
measurement, in forward passes over 1,024 samples. A backward pass through the activations alone counts as one, a full
one as two; the margins, which are always taken, count only for themselves. The cost is right within 30 % on the tests'
network, with an upper bound (≤) where it depends on the model. It contains a guess of the time of what stands under
*besides*. *By place*: what a sample draws at random goes by its place among the samples, so that another order of them
is another draw; so is which samples curvature and leave-one-out take where there are more than they need. Nothing else
depends on the order, and nothing on the size of the batches.
"""
_CELLS = [f"{cell}: {meaning}" for cell, meaning in CELLS.items()]
_KEYS = f"""
## Keys

Logged under `{PREFIX}`. The last three columns say what leaves a value as it is: *logits*, a scaling of them by the
last layer's weights and bias; *relu*, a rescaling of consecutive layers around their ReLUs, one factor per layer;
*batch norm*, a rescaling of the weights in front of a batch norm, statistics included. The initial weights stay.

{chr(10).join(f"* {cell}" for cell in _CELLS)}
"""
_FIGURES = "\n## Figures\n\nDrawn by the loggers that can draw; the histograms hold one value per sample.\n"
_FACTS = "\n## Facts of the run, and what is predicted\n"
_INVARIANT_UNDER = ("logits", "relu", "batch norm")


def measures_page() -> str:
    """All measures and keys as a page of Markdown; `docs/measures.md` is this page.

    What a measure computes, and where it is undefined, is in the docstring of its function.
    """
    measures = _table(
        ("measure", "taken", "cost", "besides", "by place", "what it gives", "reference"),
        (
            (
                f"`{name}`",
                _taken(row),
                _cost(row),
                row.besides,
                "yes" if row.drawn_by_place else "",
                _summary(row),
                _papers(row),
            )
            for name, row in MEASURES.items()
        ),
    )
    keys = _table(
        ("key", "measure", "unit", "range", "meaning", *_INVARIANT_UNDER),
        (
            (f"`{key}`", name, declared.unit, _range(declared), declared.meaning, *(declared.invariances or ()))
            for name in MEASURES
            for key, declared in _numbers_of(name).items()
        ),
    )
    figures = _table(
        ("figure", "measure", "drawn as", "unit", "meaning"),
        (
            (f"`{key}`", name, declared.kind, declared.unit, declared.meaning)
            for name in MEASURES
            for key, declared in _figures_of(name).items()
        ),
    )
    facts = _table(
        ("key", "unit", "range", "meaning"),
        (
            (f"`{key}`", declared.unit, _range(declared), declared.meaning)
            for key, declared in (_numbers_of("") | PREDICTED).items()
        ),
    )
    return "\n".join([_MEASURES, *measures, _KEYS, *keys, _FIGURES, *figures, _FACTS, *facts, ""])


def describe_measure(name: str) -> str:
    """One measure for people: what it gives, when it is taken, what it costs, who found it, and its keys.

    Raises:
        MeasureError: there is none of this name; the message lists those that are known.

    Example:
        >>> print(describe_measure("fit").splitlines()[0])
        fit: Accuracy, mean cross-entropy and mean confidence on the probe, with the labels as trained
    """
    row = get_measure(name)
    facts = {
        "taken": _taken(row),
        "cost": f"{_cost(row)} forward passes over 1,024 samples" + (f"; besides {row.besides}" if row.besides else ""),
        "by place": "yes: another order of the samples is another draw" if row.drawn_by_place else "",
        "reference": _papers(row),
        "defined in": f"the docstring of {row.function.__module__}.{row.function.__name__}",
    }
    keys = [
        (key, declared.unit, _range(declared), *(declared.invariances or ("", "", "")), declared.meaning)
        for key, declared in _numbers_of(name).items()
    ]
    figures = [(key, declared.kind, declared.unit, declared.meaning) for key, declared in _figures_of(name).items()]
    lines = [
        f"{name}: {_summary(row)}",
        "",
        *_aligned([(fact, text) for fact, text in facts.items() if text]),
        "",
        *_aligned([(f"key under {PREFIX}", "unit", "range", *_INVARIANT_UNDER, "meaning"), *keys]),
        "",
        "Whether a value stays where the logits are scaled, or weights rescaled around ReLUs or before batch norms:",
        *(f"  {cell}" for cell in _CELLS),
    ]
    if figures:
        lines += ["", *_aligned([("figure", "drawn as", "unit", "meaning"), *figures])]
    return "\n".join([*lines, ""])


def _numbers_of(measure: str) -> dict[str, Key]:
    """The keys that are logged as numbers, derived ones included; with an empty name, the facts of the run."""
    return {key: declared for key, declared in MEASURED.items() if declared.measure == measure}


def _figures_of(measure: str) -> dict[str, Key]:
    return {key: declared for key, declared in MEASURES[measure].keys.items() if declared.kind != "scalar"}


def _taken(row: Measure) -> str:
    taken = "once per training" if row.per_training else "each time"
    return taken if row.by_default else f"on request, {taken}"


def _cost(row: Measure) -> str:
    return f"{row.forwards:g}" + (f" (≤ {row.at_most:g})" if row.at_most else "")


def _summary(row: Measure) -> str:
    """The first sentence of the docstring."""
    return (inspect.getdoc(row.function) or "").partition("\n\n")[0].replace("\n", " ").removesuffix(".")


def _papers(row: Measure) -> str:
    """What follows "Reference:" in the docstring, to the end of the paragraph."""
    found = re.search(r"References?:\s+(.*?)(?:\n\n|\Z)", inspect.getdoc(row.function) or "", re.DOTALL)
    return "" if found is None else " ".join(found[1].split()).removesuffix(".")


def _range(declared: Key) -> str:
    if math.isinf(declared.low) and math.isinf(declared.high):
        return "unbounded"
    return f"{declared.low:g} and up" if math.isinf(declared.high) else f"{declared.low:g} to {declared.high:g}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of Markdown, line by line."""
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Plain text in columns; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
