"""The loss-gap head of a predictor: the log of test minus train loss, linear in few features.

These are the features of the accuracy gap and the train loss; or, where the specification says so, the accuracy gap
that the predictor itself says, which in the fit is that of predictors that have not seen the task, and the train loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.predictors.predictor import PREDICTED_GAP, LossHead
from lightning_gengap.zoo.evaluate.splits import Mask, by_task
from lightning_gengap.zoo.fit.fit import held_out_gaps, weighted_quantile
from lightning_gengap.zoo.fit.ridge import LEVEL, design, rounded, transformed
from lightning_gengap.zoo.fit.row_weights import row_weights
from lightning_gengap.zoo.fit.specifications import Specification, Term
from lightning_gengap.zoo.table import Floats, Table, with_numbers

FLOOR = 0.02  # nats; gaps below it, negative ones too, count as this
STRENGTH = 1e-3
LOSS = Term("train_loss", "log")
GAP = Term(PREDICTED_GAP, "log", 0.005)


def fit_loss_head(table: Table, specification: Specification, rows: Mask) -> LossHead | None:
    """Ridge on the log of the loss gap, with the quantiles of residuals on held-out tasks; None without the column.

    The train loss is a feature whether the accuracy gap has it or not.
    """
    rows = rows & np.isfinite(table.numbers("gap.loss"))
    if not rows.any():
        return None
    if specification.loss_of_gap:
        gaps = held_out_gaps(table, specification, rows)
        table, rows = with_gaps(table, gaps), rows & np.isfinite(gaps)
    specification = with_loss(specification)
    residuals, tasks = held_out(table, specification, rows, by_task)
    tail = (1 - LEVEL) / 2
    below = -weighted_quantile(-residuals, tasks, 1 - tail)
    return replace(
        _fitted(table, specification, rows),
        below=rounded(below),
        above=rounded(weighted_quantile(residuals, tasks, 1 - tail)),
    )


def with_loss(specification: Specification) -> Specification:
    """The specification with the head's features: those of the accuracy gap, or that gap itself, and the train loss."""
    if specification.loss_of_gap:
        return replace(specification, features=(GAP, LOSS))
    if LOSS in specification.features:
        return specification
    return replace(specification, features=(*specification.features, LOSS))


def with_gaps(table: Table, gaps: Floats) -> Table:
    """The table with the accuracy gap that was predicted for each row, for heads that start from it."""
    return with_numbers(table, f"measure.{GAP.name}", gaps)


def fit_loss_point(table: Table, specification: Specification, rows: Mask) -> LossHead:
    """The same ridge without an interval, as for baselines; without features the geometric mean of the loss gaps."""
    if not specification.features:
        target = np.log(np.maximum(table.numbers("gap.loss")[rows], FLOOR))
        return LossHead(rounded(float(target.mean())), (), 0.0, 0.0)
    return _fitted(table, with_loss(specification), rows)


def predicted_losses(head: LossHead, table: Table, rows: Mask, abstained: Mask) -> tuple[Floats, Floats, Floats]:
    """Loss gap, lower and upper end for some rows, as `LossHead.predict`; the prior where the predictor abstains."""
    gap = np.exp(np.minimum(_log_gap(head, table, rows), 5.0))
    ends = (gap, gap * math.exp(head.below), gap * math.exp(head.above))
    said = [np.where(abstained, prior, end) for prior, end in zip(head.prior, ends, strict=True)]
    return said[0], said[1], said[2]


def held_out(
    table: Table, specification: Specification, rows: Mask, split: Callable[[Table], Any]
) -> tuple[Floats, NDArray[np.str_]]:
    """Log actual minus log predicted loss gap on held-out rows, and their tasks."""
    residuals, tasks = [np.zeros(0)], [np.zeros(0, dtype=str)]
    target = np.log(np.maximum(table.numbers("gap.loss"), FLOOR))
    for _, fitted, held in split(table):
        if (fitted & rows).sum() < 10 or not (held & rows).any():
            continue
        head = _fitted(table, specification, fitted & rows)
        residuals.append(target[held & rows] - _log_gap(head, table, held & rows))
        tasks.append(table.words("task")[held & rows])
    return np.concatenate(residuals), np.concatenate(tasks)


def _fitted(table: Table, specification: Specification, rows: Mask) -> LossHead:
    features, columns = design(table, specification, rows)
    target = np.log(np.maximum(table.numbers("gap.loss")[rows], FLOOR))
    weights = row_weights(table, specification, rows)
    # Unweighted columns have mean zero already, but for the rounding of their centres.
    centre = np.average(columns, axis=0, weights=weights) if specification.balanced else np.zeros(columns.shape[1])
    mean = float(np.average(target, weights=weights)) if specification.balanced else float(target.mean())
    weighted = (columns - centre) * weights[:, None]
    penalty = STRENGTH * len(columns) * np.eye(columns.shape[1])
    standard = np.linalg.solve(weighted.T @ (columns - centre) + penalty, weighted.T @ (target - mean))
    intercept = mean - float(centre @ standard)
    scaled = [
        replace(feature, coefficient=rounded(coefficient / feature.deviation))
        for feature, coefficient in zip(features, standard, strict=True)
    ]
    return LossHead(rounded(intercept), tuple(scaled), 0.0, 0.0)


def _log_gap(head: LossHead, table: Table, rows: Mask) -> Floats:
    total = np.full(int(rows.sum()), head.intercept)
    for feature in head.features:
        values = transformed(feature, table.numbers(f"measure.{feature.name}")[rows])
        total += feature.coefficient * (values - feature.centre)
    return total
