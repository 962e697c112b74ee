"""Bootstrap over tasks, then runs. One set of draws serves all contenders, so their differences are paired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.zoo.table import Floats, Table

DRAWS = 1000


class Score(NamedTuple):
    """A score and its bootstrap draws; draws in which it is undefined are NaN."""

    value: float
    draws: Floats

    def minus(self, other: Score) -> Score:
        """The difference, paired draw by draw."""
        return Score(self.value - other.value, self.draws - other.draws)

    def listed(self) -> list[float] | None:
        """Value and 95 % interval, [value, low, high]; None where the score is undefined."""
        kept = self.draws[np.isfinite(self.draws)]
        if not np.isfinite(self.value) or len(kept) == 0:
            return None
        return [rounded(self.value), *map(rounded, np.quantile(kept, [0.025, 0.975]))]


@dataclass(frozen=True)
class Resampling:
    """How often each run takes part in each draw.

    Attributes:
        run_of_row: for every row of the table, its run's column in `weights`.
        weights: shape (draws, runs); tasks are drawn with replacement, then runs within every drawn task.
    """

    run_of_row: NDArray[np.int64]
    weights: Floats

    @staticmethod
    def of(table: Table) -> Resampling:
        """Seeded draws for all runs of a table."""
        runs, first, run_of_row = np.unique(table.words("run"), return_index=True, return_inverse=True)
        tasks, task_of_run = np.unique(table.words("task")[first], return_inverse=True)
        rng = np.random.default_rng(0)
        times = rng.multinomial(len(tasks), np.full(len(tasks), 1 / len(tasks)), size=DRAWS)
        weights = np.zeros((DRAWS, len(runs)))
        for task in range(len(tasks)):
            own = np.flatnonzero(task_of_run == task)
            weights[:, own] = rng.multinomial(times[:, task] * len(own), np.full(len(own), 1 / len(own)))
        return Resampling(run_of_row.astype(np.int64), weights)

    def mean(self, values: Floats, rows: NDArray[np.int64]) -> Score:
        """Mean over rows."""
        return self.ratio(values, np.ones(len(rows)), rows)

    def ratio(self, numerator: Floats, denominator: Floats, rows: NDArray[np.int64]) -> Score:
        """Sum over sum."""
        if len(rows) == 0:
            return Score(float("nan"), np.full(len(self.weights), np.nan))
        above, below = self._sums(numerator, rows), self._sums(denominator, rows)
        return Score(float(numerator.sum() / denominator.sum()), _divided(above, below))

    def skill(self, errors: Floats, baseline: Floats, rows: NDArray[np.int64]) -> Score:
        """1 - mean error / mean error of a baseline on the same rows."""
        share = self.ratio(errors, baseline, rows)
        return Score(1 - share.value, 1 - share.draws)

    def r2(self, prediction: Floats, actual: Floats, rows: NDArray[np.int64]) -> Score:
        """Coefficient of determination: 1 - squared error / variance within the draw."""
        if len(rows) == 0:
            return Score(float("nan"), np.full(len(self.weights), np.nan))
        centred = actual - actual.mean()  # the variance is the same, and no digits are lost
        squared = (actual - prediction) ** 2
        count, first, second = (self._sums(v, rows) for v in (np.ones(len(rows)), centred, centred**2))
        spread = second - _divided(first, count) * first
        share = float(squared.sum() / (centred**2).sum()) if (centred**2).sum() > 0 else float("nan")
        return Score(1 - share, 1 - _divided(self._sums(squared, rows), spread))

    def _sums(self, values: Floats, rows: NDArray[np.int64]) -> Floats:
        by_run = np.bincount(self.run_of_row[rows], values, minlength=self.weights.shape[1])
        summed: Floats = self.weights @ by_run
        return summed


def over_groups(values: Floats, pools: Floats) -> Score:
    """The mean over groups of a score that is no sum (a rank correlation), with groups and then pools resampled.

    Pools, of shape (groups, draws), hold each group's score in resamples of its own runs.
    """
    if len(values) == 0:
        return Score(float("nan"), np.full(DRAWS, np.nan))
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(values), (DRAWS, len(values)))
    within = rng.integers(0, pools.shape[1], drawn.shape)
    return Score(float(values.mean()), pools[drawn, within].mean(axis=1))


def bootstrap(values: Floats, groups: NDArray[Any] | None = None) -> list[float] | None:
    """Mean and its 95 % interval, [mean, low, high], by resampling whole groups; without groups, single values."""
    names, inverse = np.unique(np.arange(len(values)) if groups is None else groups, return_inverse=True)
    if len(names) == 0:
        return None
    sums, counts = np.bincount(inverse, values).astype(float), np.bincount(inverse).astype(float)
    drawn = np.random.default_rng(0).integers(0, len(sums), (DRAWS, len(sums)))
    return Score(float(values.mean()), sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)).listed()


def rounded(value: Any) -> float:
    """Four digits after the point."""
    return round(float(value), 4)


def _divided(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
