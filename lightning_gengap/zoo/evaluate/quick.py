"""Held-out point predictions for comparisons by the hundred: ridge without an interval and without abstention.

A value farther outside the fitted range than a predictor would accept counts as the end of that region.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from lightning_gengap.predictors.specification import Specification
from lightning_gengap.zoo.fit.fit import FEWEST_TASKS, enough, fitted_at, least, regression_of, strengths_of
from lightning_gengap.zoo.hold_out import hold_out
from lightning_gengap.zoo.splits import Split, fold_of
from lightning_gengap.zoo.table import Floats, Mask, Rows, Table


def hold_out_points(
    table: Table,
    specification: Specification,
    split: Iterable[Split],
    among: Mask,
    folds: Rows | None = None,
    fewest_tasks: int = FEWEST_TASKS,
) -> tuple[Rows, Floats]:
    """The held-out rows in the table's order, and the gaps that fits on each split's other rows predict for them.

    Both are within `among`. Splits that leave too few runs or tasks to fit on are left out. `folds` are those of
    `predicted_points`.
    """

    def method(fitted: Mask, held: Mask) -> Floats:
        return predicted_points(table, specification, fitted, held, folds)

    held = hold_out(split, among, method, partial(enough, table, tasks=fewest_tasks))
    return held.rows, held.values[0]


def predicted_points(
    table: Table, specification: Specification, fitted: Mask, held: Mask, folds: Rows | None = None
) -> Floats:
    """Gaps of the held rows, in [0, train accuracy], by ridge regression on the fitted ones.

    The ridge strength is that with the smallest error over inner folds: of whole runs, or of whole tasks where the
    specification is balanced, unless others are given. A constant feature does nothing.
    """
    accuracy = table.numbers("measure.train_accuracy")[held]
    if not specification.features:
        return np.minimum(table.numbers("gap.accuracy")[fitted].mean(), accuracy)
    column = "task" if specification.balanced else "run"
    if folds is None:
        folds = table.once(f"folds of {column}", lambda: fold_of(table.words(column)))
    strength = _best_strength(table, specification, fitted, folds)
    (predictor,) = fitted_at(table, specification, fitted, (strength,), drop_constant=True)
    values = table.measured(predictor.reads, held)
    values |= {feature.name: feature.nearest(values[feature.name]) for feature in predictor.features}
    return predictor.gaps(values, accuracy)


def _best_strength(table: Table, specification: Specification, fitted: Mask, folds: Rows) -> float:
    strengths = strengths_of(specification)
    regression = regression_of(table, specification, fitted, drop_constant=True)[1]
    inner = folds[fitted]

    def method(known: Mask, asked: Mask) -> Floats:
        lines = regression.part(known).lines(strengths)
        return np.stack([line.at(regression.columns[asked]) for line in lines])

    split = [(str(fold), inner != fold, inner == fold) for fold in np.unique(inner)]
    held = hold_out(split, np.ones(len(inner), bool), method, np.any, len(strengths))
    errors = np.abs(regression.target[held.rows] - held.values)
    return strengths[least(errors, table.codes("task")[fitted][held.rows], specification.balanced)]
