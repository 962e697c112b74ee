"""How far a predictor's deviations are too small: on tasks of known sources, of known kinds, and of neither."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.predictors.parts import NORMAL_QUANTILE, Scales
from lightning_gengap.predictors.specification import Specification
from lightning_gengap.zoo.fit.fit import fit, predict_rows, usable
from lightning_gengap.zoo.fit.interval import LEVEL, weighted_quantile
from lightning_gengap.zoo.fit.ridge import rounded
from lightning_gengap.zoo.hold_out import anything, hold_out
from lightning_gengap.zoo.kinds import kind_of_data
from lightning_gengap.zoo.splits import SIBLINGS, Split, by_group, by_task
from lightning_gengap.zoo.table import Floats, Mask, Rows, Table

Rule = Callable[[Floats, NDArray[Any]], float]


@dataclass(frozen=True)
class Residuals:
    """What predictors say of held-out rows whose groups they were not fitted on. Abstentions are left out.

    Attributes:
        rows: of the table.
        predicted: test accuracy.
        deviation: that the predictor states.
        residual: actual minus predicted test accuracy.
    """

    rows: Rows
    predicted: Floats
    deviation: Floats
    residual: Floats


def by_kind(table: Table) -> Iterable[Split]:
    """Each kind of data held out once."""
    kinds = kind_of_data(table)
    for kind in sorted(set(kinds.tolist())):
        yield kind, kinds != kind, kinds == kind


def held_out_residuals(table: Table, specification: Specification, split: Iterable[Split], among: Mask) -> Residuals:
    """Fit on each split's rows, and compare what is predicted of its held-out rows. What has too few is skipped."""
    accuracy, actual = table.numbers("measure.train_accuracy"), table.numbers("gap.test_accuracy")

    def method(fitted: Mask, held: Mask) -> Floats:
        said = predict_rows(fit(table, specification, fitted), table, held)
        return np.stack([accuracy[held] - said.gap, said.deviation, said.abstained.astype(float)])

    among = among & usable(table, specification)
    found = hold_out(split, among, method, anything, kinds=3, skip=True)
    predicted, deviation, abstained = found.values
    kept = abstained == 0
    rows = found.rows[kept]
    return Residuals(rows, predicted[kept], deviation[kept], actual[rows] - predicted[kept])


def by_score(scaled: Floats, groups: NDArray[Any]) -> float:
    """The multiplier of the deviations with the best mean log score under a normal law, each group weighing the same.

    `scaled` is residual over deviation.
    """
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return float(np.sqrt(np.average(scaled**2, weights=1 / counts[inverse])))


def by_coverage(scaled: Floats, groups: NDArray[Any]) -> float:
    """The multiplier with which the interval of 90 % covers 90 % of a new group, each group weighing the same."""
    return weighted_quantile(np.abs(scaled), groups, LEVEL) / NORMAL_QUANTILE


def fitted_scales(table: Table, specification: Specification, among: Mask, rule: Rule = by_score) -> Scales:
    """The scales of a specification on these rows: with tasks, sources with their siblings, and kinds left out.

    A level that cannot be held out has the scale of the one before it. None is smaller than that of the one before it:
    who knows less errs no less.
    """
    splits = {
        "known": by_task(table),
        "kind": by_group(table, "recipe.source", SIBLINGS),
        "neither": by_kind(table),
    }
    scales, least = Scales(), 0.0
    for level, split in splits.items():
        found = held_out_residuals(table, specification, split, among)
        if len(found.rows):
            tasks = table.words("task")[found.rows]
            least = max(least, rule(found.residual / found.deviation, tasks))
        scales = replace(scales, **{level: rounded(least or 1.0)})
    return scales
