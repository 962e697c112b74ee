"""The equivalent hold-out m*: how many held-out samples tell the test accuracy as well as a prediction does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lightning_gengap.zoo.evaluate.bootstrap import DRAWS, Score
from lightning_gengap.zoo.table import Floats, Rows

MOST = 1e6  # samples; beyond that only the noise of the test is left
_HALVINGS = 60


@dataclass(frozen=True)
class HoldOuts:
    """What hold-outs of any size would err on the rows of some tasks, and what a prediction errs there.

    A task's error is the mean over its rows. Kinds of data count alike where `kinds` says so, and so do the tasks of a
    kind. The test accuracy itself is known from N samples only, so that a hold-out of m samples errs by
    sqrt(2 / pi) sqrt(p (1 - p) (1 / m + 1 / N)) on average.

    Attributes:
        errors: mean absolute error of the test accuracy, by task.
        scales: the mean of sqrt(2 p (1 - p) / pi) and of 1 / N, by task; shape (2, tasks).
        weights: of each task, summing to one.
    """

    errors: Floats
    scales: Floats
    weights: Floats

    @staticmethod
    def of(errors: Floats, accuracy: Floats, test_samples: Floats, tasks: Rows, kinds: Rows | None = None) -> HoldOuts:
        """From rows: signed errors of the predicted test accuracy, that accuracy p, N, and codes of task and kind."""
        names, first, place = np.unique(tasks, return_index=True, return_inverse=True)
        counts = np.bincount(place)

        def by_task(values: Floats) -> Floats:
            means: Floats = np.bincount(place, values) / counts
            return means

        spread = np.sqrt(2 / math.pi * np.clip(accuracy * (1 - accuracy), 0, None))
        scales = np.stack([by_task(spread), by_task(1 / test_samples)])
        kind = np.zeros(len(names), np.int64) if kinds is None else np.unique(kinds[first], return_inverse=True)[1]
        weights = 1 / np.bincount(kind)[kind] / (kind.max() + 1)
        return HoldOuts(by_task(np.abs(errors)), scales, weights)

    def error(self, samples: Floats, weights: Floats) -> Floats:
        """What hold-outs of so many samples err; shapes (draws,) and (draws, tasks)."""
        spread, noise = self.scales
        expected: Floats = (weights * spread * np.sqrt(1 / samples[:, None] + noise)).sum(axis=1)
        return expected

    def equivalent(self) -> Score:
        """m*, with draws of tasks; infinite where the noise of the test explains the error.

        It is the m at which a hold-out errs as much as the prediction, both averaged over tasks by weight.
        """
        rng = np.random.default_rng(0)
        times = rng.multinomial(len(self.weights), np.full(len(self.weights), 1 / len(self.weights)), size=DRAWS)
        drawn = times * self.weights
        drawn = np.vstack([self.weights, drawn / drawn.sum(axis=1, keepdims=True)])
        found = _solved(self, drawn)
        return Score(float(found[0]), found[1:])


def _solved(known: HoldOuts, weights: Floats) -> Floats:
    """For each row of weights the m by halving the range of its log."""
    errors = weights @ known.errors
    low, high = np.full(len(weights), math.log(0.1)), np.full(len(weights), math.log(MOST))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        more = known.error(np.exp(middle), weights) > errors  # a hold-out of that size errs more: m* is larger
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    found: Floats = np.where(high >= math.log(MOST) - 1e-9, np.inf, np.exp((low + high) / 2))
    return found
