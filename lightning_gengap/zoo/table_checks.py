"""What a table must satisfy before anything is fitted to it: known columns, declared units, no contradiction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.errors import TableError
from lightning_gengap.measures import MEASURED
from lightning_gengap.zoo.frames import pd

Numbers = Callable[[str], NDArray[np.float64]]
REQUIRED = ("run", "task", "recipe.family", "recipe.source", "recipe.classes", "recipe.noise", "gap.accuracy")
_RANGES: dict[str, tuple[float, float]] = {
    "epoch": (0, math.inf),
    "recipe.train_samples": (1, math.inf),
    "gap.accuracy": (-1, 1),
    "gap.train_accuracy": (0, 1),
    "gap.test_accuracy": (0, 1),
    "gap.test_accuracy_first_half": (0, 1),
    "gap.test_accuracy_second_half": (0, 1),
    "gap.clean_test_accuracy": (0, 1),
    "gap.bayes_accuracy": (0, 1),
    "gap.loss": (-math.inf, math.inf),
    "gap.test_samples": (1, math.inf),
}
_SLACK = 1e-6  # of a range's end, for rounding
_ROUNDING = 2e-3  # of a difference, for cells of three decimals
_REWRITE = "Write it again with `gengap zoo table`."


def bad(path: Path, got: str, expected: str, remedy: str = _REWRITE) -> TableError:
    """The error that names the table."""
    return TableError(f"table {path}", got=got, expected=expected, remedy=remedy)


def check_cells(lines: Sequence[Sequence[str]], path: Path) -> None:
    """Refuse a header with missing, repeated or unknown columns, and rows of other lengths."""
    header, body = (lines[0] if lines else []), lines[1:]
    if not header:
        raise bad(path, "no header", "a first line with the names of the columns")
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise bad(path, f"two columns {', '.join(repeated)}", "each column once", "Leave out all but one of them.")
    missing = [column for column in REQUIRED if column not in header]
    if missing:
        raise bad(path, f"no column {', '.join(missing)}", f"the columns {', '.join(REQUIRED)}")
    unknown = [c for c in header if c.startswith("measure.") and c.removeprefix("measure.") not in MEASURED]
    if unknown:
        raise bad(path, f"the measure {unknown[0]!r}", "measures of this version")
    if any(len(line) != len(header) for line in body) or not body:
        raise bad(path, "rows of other lengths than the header, or none", "one cell per column")


def check_values(cells: pd.DataFrame, numbers: Numbers, path: Path) -> None:
    """Refuse cells that are no numbers or out of their column's range, and rows that contradict each other.

    The cells are text; `numbers` gives a column as numbers. The error names the first line, of which the header is one.
    """
    for column in map(str, cells):
        _check_range(cells, numbers, column, path)
    absent = np.flatnonzero(np.isnan(numbers("gap.accuracy")))
    if len(absent):
        raise bad(path, f"no gap.accuracy in line {absent[0] + 2}", "the gap in every row", "Leave out such rows.")
    _check_gaps(numbers, path)
    if cells.duplicated([column for column in ("run", "epoch") if column in cells]).any():
        raise bad(path, "two rows of one run and epoch", "one row per snapshot")
    _check_recipes(cells, path)


def _check_range(cells: pd.DataFrame, numbers: Numbers, column: str, path: Path) -> None:
    key, unit = MEASURED.get(column.removeprefix("measure.")) if column.startswith("measure.") else None, ""
    if key is not None:
        low, high, unit = key.low, key.high, f"{key.unit} "
    elif column in _RANGES:
        low, high = _RANGES[column]
    else:
        return
    try:
        values = numbers(column)
    except ValueError:
        lines = enumerate(cells[column], 2)
        line, cell = next((line, cell) for line, cell in lines if cell and not _numeric(cell))
        remedy = "Correct it, or leave it empty where nothing was measured."
        raise bad(path, f"{column} {cell!r} in line {line}", "a number", remedy) from None
    # Infinities within the range stand: a fit leaves out their rows.
    outside = (values < low - _SLACK * max(1, abs(low))) | (values > high + _SLACK * max(1, abs(high)))
    if outside.any():
        row = int(np.argmax(outside))
        more = f", and {int(outside.sum()) - 1} more" if outside.sum() > 1 else ""
        remedy = "Correct the column; leave cells empty where nothing was measured."
        if high == 1 < np.nanmedian(values) <= 100:
            remedy = "Divide by 100 what is in per cent, or correct the column."
        raise bad(path, f"{column} = {values[row]:g} in line {row + 2}{more}", f"{unit}{_range(low, high)}", remedy)


def _range(low: float, high: float) -> str:
    if math.isinf(high):
        return f"of {low:g} or more"
    return f"up to {high:g}" if math.isinf(low) else f"in [{low:g}, {high:g}]"


def _numeric(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _check_gaps(numbers: Numbers, path: Path) -> None:
    """The gap is the difference of the accuracies, where both are there."""
    train, test, gap = (numbers(f"gap.{name}") for name in ("train_accuracy", "test_accuracy", "accuracy"))
    off = np.abs(train - test - gap) > _ROUNDING  # False where one is missing
    if off.any():
        row = int(np.argmax(off))
        raise bad(
            path,
            f"gap.accuracy = {gap[row]:g} in line {row + 2}, where train minus test accuracy is "
            f"{train[row] - test[row]:g}",
            "gap.accuracy = gap.train_accuracy - gap.test_accuracy",
            "Correct one of the three, or leave out gap.train_accuracy.",
        )


def _check_recipes(cells: pd.DataFrame, path: Path) -> None:
    """A run has one task and one recipe, and, where seeds are given, a recipe has one run in a task."""
    described = ["task", *(column for column in map(str, cells) if column.startswith("recipe."))]
    for column in described:
        for row, first in _contradictions(cells[cells[column] != ""], ["run"], column):
            raise bad(
                path,
                f"{column} {first!r} and {cells[column][row]!r} (line {row + 2}) of run {cells['run'][row]}",
                f"one {column} per run",
                "Correct it, or give the runs keys of their own.",
            )
    # Without seeds, runs that differ in nothing else look alike.
    seeded = cells[cells["recipe.seed"] != ""] if "recipe.seed" in cells else cells[:0]
    for row, first in _contradictions(seeded, described, "run"):
        raise bad(
            path,
            f"the runs {first} and {cells['run'][row]} (line {row + 2}) of one task, recipe and seed",
            "each run under one key",
            "Leave out one of them, lest one is fitted and the other held out.",
        )


def _contradictions(cells: pd.DataFrame, by: list[str], column: str) -> list[tuple[int, str]]:
    """Rows whose cell is not the first of their group, each with that first cell."""
    first = cells.groupby(by)[column].transform("first")
    return [(row, first[row]) for row in first.index[cells[column] != first]]
