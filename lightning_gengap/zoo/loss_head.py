"""The loss-gap head of a predictor: the log of test minus train loss, linear in the features of the accuracy gap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.predictor import LossHead
from lightning_gengap.zoo.fit import LEVEL, design, rounded, transformed, weighted_quantile
from lightning_gengap.zoo.protocol import Mask, by_task
from lightning_gengap.zoo.specifications import Specification, Term
from lightning_gengap.zoo.table import Floats, Table

FLOOR = 0.02  # nats; gaps below it, negative ones too, count as this
STRENGTH = 1e-3
LOSS = Term("train_loss", "log")


def fit_loss_head(table: Table, specification: Specification, rows: Mask) -> LossHead | None:
    """Ridge on the log of the loss gap, with the quantiles of residuals on held-out tasks; None without the column.

    The train loss is a feature whether the accuracy gap has it or not.
    """
    rows = rows & np.isfinite(table.numbers("gap.loss"))
    if not rows.any():
        return None
    if LOSS not in specification.features:
        specification = replace(specification, features=(*specification.features, LOSS))
    residuals, tasks = held_out(table, specification, rows, by_task)
    tail = (1 - LEVEL) / 2
    below = -weighted_quantile(-residuals, tasks, 1 - tail)
    return replace(
        _fitted(table, specification, rows),
        below=rounded(below),
        above=rounded(weighted_quantile(residuals, tasks, 1 - tail)),
    )


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
    intercept = float(target.mean())
    penalty = STRENGTH * len(columns) * np.eye(columns.shape[1])
    standard = np.linalg.solve(columns.T @ columns + penalty, columns.T @ (target - intercept))
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
