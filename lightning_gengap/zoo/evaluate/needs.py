"""What a specification needs of a table, said before the minutes that a fit or an evaluation takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_gengap.errors import TableError
from lightning_gengap.measures import MEASURED
from lightning_gengap.zoo.evaluate.held_out import BASELINES, TRIVIAL_BASELINE
from lightning_gengap.zoo.evaluate.splits import Mask
from lightning_gengap.zoo.fit.fit import FEWEST_RUNS, FEWEST_TASKS
from lightning_gengap.zoo.fit.specifications import Specification
from lightning_gengap.zoo.table import Table


def check_fit(table: Table, specification: Specification) -> None:
    """Refuse a table in which a feature, or the specification's grid, occurs nowhere.

    Raises:
        TableError: names what is absent.
    """
    features = [f"measure.{name}" for name in ("train_accuracy", "classes", *specification.needs)]
    _check_columns(table, features, f"a fit of {specification.name}", "choose another predictor")
    grids = table.columns.get("recipe.grid", [])
    if specification.grid and not any(name.startswith(specification.grid) for name in grids):
        raise TableError(
            "table",
            got=f"no run with a recipe.grid that begins with {specification.grid}",
            expected=f"runs of the grid to which {specification.name} is fitted",
            remedy="Train them with `gengap zoo run --plan grids`, or choose another predictor.",
        )


def check_scores(table: Table, specification: Specification) -> None:
    """Refuse a table without the test accuracy in every row, or without what the trivial baseline is fitted to.

    Of a specification with a grid no ranking is scored, which alone needs the test accuracy.

    Raises:
        TableError: names what is absent.
    """
    baselines = BASELINES if specification.grid else (TRIVIAL_BASELINE,)
    features = [f"measure.{term.name}" for baseline in baselines for term in baseline.features]
    test = () if specification.grid else ("gap.test_accuracy",)
    without = "do without scores: `gengap zoo fit --no-scores`"
    _check_columns(table, [*test, *features], "held-out scores beside the baselines", without)
    empty = np.flatnonzero(np.isnan(table.numbers("gap.test_accuracy")))
    if test and len(empty):
        raise TableError(
            "table",
            got=f"no gap.test_accuracy in {len(empty)} of {len(table)} rows, the first of them in line {empty[0] + 2}",
            expected="the test accuracy in every row",
            remedy="Fill in the cells, or leave out these rows.",
        )


def check_runs(table: Table, specification: Specification, among: Mask, part: str) -> None:
    """Refuse rows of too few runs or tasks.

    Args:
        table: all rows.
        specification: what is to be fitted; one to a grid needs a single task.
        among: the rows that can take part.
        part: what these rows were chosen from.

    Raises:
        TableError: says how many there are.
    """
    runs, tasks = (len(np.unique(table.codes(column)[among])) for column in ("run", "task"))
    fewest = 1 if specification.grid else FEWEST_TASKS
    if runs < FEWEST_RUNS or tasks < fewest:
        whole = f"{len(set(table.columns['run']))} runs in {len(set(table.columns['task']))} tasks"
        raise TableError(
            "table",
            got=f"{runs} usable runs in {tasks} tasks of {part} (the table has {whole})",
            expected=f"at least {FEWEST_RUNS} runs in {fewest} tasks, with every feature in one row",
            remedy="Train more tasks with `gengap zoo run`.",
        )


def _check_columns(table: Table, columns: Sequence[str], purpose: str, instead: str) -> None:
    absent = [c for c in dict.fromkeys(columns) if not np.isfinite(table.numbers(c)).any()]
    if not absent:
        return
    measures = {MEASURED[c.removeprefix("measure.")].measure for c in absent if c.startswith("measure.")} - {"", "fit"}
    first = f"Measure with `gengap zoo remeasure RUNS --measures {' '.join(sorted(measures))}`"
    first = first if measures else "Train with `gengap zoo run`"
    raise TableError(
        "table",
        got=f"no value of {', '.join(absent)}",
        expected=f"these columns, for {purpose}",
        remedy=f"{first} and write the table with `gengap zoo table`, or {instead}.",
    )
