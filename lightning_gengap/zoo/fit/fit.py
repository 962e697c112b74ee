"""Table to predictor: ridge regression on few features, in log space, with a conformal interval over tasks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.errors import TableError
from lightning_gengap.predictors.predictor import Correction, Interval, Predictor
from lightning_gengap.zoo.evaluate.splits import Mask, by_run, by_task
from lightning_gengap.zoo.fit.ridge import LEVEL, fitted_at, limited_gaps, raised, rounded
from lightning_gengap.zoo.fit.specifications import Specification
from lightning_gengap.zoo.table import Floats, Table

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FEWEST_RUNS, FEWEST_TASKS = 20, 5
BALANCED_STRENGTHS = (1e-2, 3e-2, 1e-1)  # weaker ones fail on sources that are left out


def usable(table: Table, specification: Specification) -> Mask:
    """Rows with every feature, and train accuracy above the threshold below which predictors abstain.

    With a `grid`, only rows of its runs.
    """
    chance = 1 / table.numbers("measure.classes")
    fitted = table.numbers("measure.train_accuracy") >= chance + 0.25 * (1 - chance)
    present = [np.isfinite(table.numbers(f"measure.{name}")) for name in specification.needs]
    if specification.grid:
        grids = table.columns.get("recipe.grid", [""] * len(table))
        present.append(np.array([name.startswith(specification.grid) for name in grids]))
    return np.logical_and.reduce([fitted, *present])


def fit(table: Table, specification: Specification, rows: Mask | None = None) -> Predictor:
    """Fit coefficients, ridge strength (by run, inside these rows) and interval (by task, inside these rows).

    For a grid the interval is calibrated over runs.

    Raises:
        TableError: too few runs or tasks, or a feature that is constant.
    """
    rows = usable(table, specification) & (np.ones(len(table), bool) if rows is None else rows)
    runs, tasks = (len(np.unique(table.codes(column)[rows])) for column in ("run", "task"))
    fewest_tasks = 1 if specification.grid else FEWEST_TASKS
    if runs < FEWEST_RUNS or tasks < fewest_tasks:
        raise TableError(
            "table",
            got=f"{runs} usable runs in {tasks} tasks",
            expected=f"at least {FEWEST_RUNS} runs in {fewest_tasks} tasks",
            remedy="Train more with `gengap zoo run`.",
        )
    strength = _best_strength(table, specification, rows)
    predictor = fitted_at(table, specification, rows, strength)
    interval, share = _interval(table, specification, rows, strength)
    return replace(predictor, interval=interval, provenance=predictor.provenance | {"shared_by_task": share})


def predicted(predictor: Predictor, table: Table, rows: Mask) -> tuple[Floats, Floats, Floats, Mask]:
    """Gap, lower, upper and abstention for some rows: exactly `Predictor.predict`, column by column.

    Raises:
        PredictorError: a row without `train_accuracy` or `classes`.
    """
    accuracy, classes = (table.numbers(f"measure.{name}")[rows] for name in ("train_accuracy", "classes"))
    if not np.isfinite([accuracy, classes]).all():
        predictor.predict({})  # raises as it would for that row
    farthest, terms = np.zeros(len(accuracy)), [np.zeros(len(accuracy))]
    for feature in predictor.features:
        raw = table.numbers(f"measure.{feature.name}")[rows]
        finite = np.isfinite(raw)
        # Scalars, for the logarithms of `math` and NumPy differ in the last digit.
        scaled = np.array([feature.transformed(v) if f else 0.0 for v, f in zip(raw.tolist(), finite, strict=True)])
        distance = np.array([feature.distance(v) if f else math.inf for v, f in zip(raw.tolist(), finite, strict=True)])
        farthest = np.maximum(farthest, distance)
        terms.append(feature.coefficient * (scaled - feature.centre))
    total = np.array([math.fsum(row) for row in np.stack(terms, axis=1).tolist()])
    gap = predictor.intercept + total
    if predictor.form == "product_of_powers":
        gap = np.array([math.exp(min(value, 5.0)) for value in gap.tolist()])
    if predictor.memoriser is not None:
        known = table.numbers(f"measure.{predictor.memoriser.name}")[rows]
        farthest = np.where(np.isfinite(known), farthest, math.inf)
        gap = gap + np.nan_to_num(raised(predictor.memoriser, gap, accuracy, known))
    correction = predictor.correction or Correction(1.0, 1.0, 0)
    gap = gap + (correction.factor - 1) * (gap + predictor.interval.offset)
    gap = np.minimum(np.maximum(gap, 0.0), accuracy)
    chance = 1 / classes
    abstained = (farthest > 1) | (accuracy < chance + 0.25 * (1 - chance))
    width = (1 + np.where(abstained, 0, farthest)) * correction.width * (gap + predictor.interval.offset)
    lower, upper = gap + predictor.interval.below * width, gap + predictor.interval.above * width
    return (
        np.where(abstained, np.minimum(predictor.prior_gap, accuracy), gap),
        np.where(abstained, 0.0, np.minimum(lower, gap)),
        np.where(abstained, accuracy, np.maximum(np.minimum(upper, accuracy), gap)),
        abstained,
    )


def _best_strength(table: Table, specification: Specification, rows: Mask) -> float:
    """The strength with the smallest mean absolute error on held-out runs of these rows; if balanced, on tasks."""
    if not specification.balanced:
        errors = [_held_out(table, specification, rows, strength, by_run)[0] for strength in STRENGTHS]
        return STRENGTHS[int(np.argmin([np.abs(error).mean() for error in errors]))]
    means = []
    for strength in BALANCED_STRENGTHS:
        residuals, _, tasks = _held_out(table, specification, rows, strength, by_task)
        means.append(np.mean([np.abs(residuals[tasks == task]).mean() for task in np.unique(tasks)]))
    return BALANCED_STRENGTHS[int(np.argmin(means))]


def _interval(table: Table, specification: Specification, rows: Mask, strength: float) -> tuple[Interval, float]:
    """Quantiles of the scaled residuals of held-out tasks, each task weighing the same (conformal by task).

    And the share of the residuals' variance that the rows of one task have in common, which recalibration can remove.
    """
    split, column = (by_run, "run") if specification.grid else (by_task, "task")
    residuals, gaps, tasks = _held_out(table, specification, rows, strength, split, column)
    scaled = residuals / (gaps + specification.offset)
    if specification.symmetric:
        below = above = weighted_quantile(np.abs(scaled), tasks, LEVEL)
    else:
        below, above = (weighted_quantile(side, tasks, (1 + LEVEL) / 2) for side in (-scaled, scaled))
    interval = Interval(LEVEL, specification.offset, rounded(-below), rounded(above))
    return interval, rounded(shared_variance(scaled, tasks))


def shared_variance(values: Floats, groups: NDArray[Any]) -> float:
    """The intraclass correlation of a one-way random-effects model, in [0, 1]."""
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, values) / counts
    within = float(((values - means[inverse]) ** 2).sum() / max(len(values) - len(names), 1))
    between = float(means.var(ddof=1)) - within * float((1 / counts).mean()) if len(names) > 1 else 0.0
    return max(between, 0.0) / (max(between, 0.0) + within) if within + between > 0 else 0.0


def weighted_quantile(values: Floats, groups: NDArray[Any], level: float) -> float:
    """The conformal quantile of a new group: each of T groups weighs 1 / (T + 1), and one is at infinity.

    With too few groups for the level the largest value is returned.
    """
    names, counts = np.unique(groups, return_counts=True)
    share = dict(zip(names, 1 / (counts * (len(names) + 1)), strict=True))
    order = np.argsort(values)
    cumulated = np.cumsum([share[groups[i]] for i in order])
    position = int(np.searchsorted(cumulated, level))
    return float(values[order[min(position, len(order) - 1)]])


def _held_out(
    table: Table,
    specification: Specification,
    rows: Mask,
    strength: float,
    split: Callable[[Table], Any],
    column: str = "task",
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Residuals (actual minus predicted), predictions and codes of tasks (or runs) of held-out rows, inside `rows`."""
    residuals, gaps, tasks = [], [], []
    actual = table.numbers("gap.accuracy")
    for _, fitted, held in split(table):
        if (fitted & rows).sum() < 10 or not (held & rows).any():
            continue
        predictor = fitted_at(table, specification, fitted & rows, strength)
        gap = limited_gaps(predictor, table, held & rows)
        residuals.append(actual[held & rows] - gap)
        gaps.append(gap)
        tasks.append(table.codes(column)[held & rows])
    return np.concatenate(residuals), np.concatenate(gaps), np.concatenate(tasks)


def held_out_gaps(table: Table, specification: Specification, rows: Mask) -> Floats:
    """For each of these rows the gap that a predictor says which has not seen its task; NaN elsewhere."""
    gaps = np.full(len(table), np.nan)
    strength = _best_strength(table, specification, rows)
    for _, fitted, held in by_task(table):
        if (fitted & rows).sum() >= 10 and (held & rows).any():
            predictor = fitted_at(table, specification, fitted & rows, strength)
            gaps[held & rows] = limited_gaps(predictor, table, held & rows)
    return gaps
