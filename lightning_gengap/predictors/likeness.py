"""How alike what two predictions of one task miss is, which decides on the difference of their accuracies. Numpy alone.

The process of `evidence` is about the level. A difference is another matter: two predictions miss nearly the same where
they say nearly the same, whatever the epochs, in two runs of a task as in one. The likeness falls with the distance of
the predictions. Predictions of one task that lie close together are of accuracies that lie farther apart than they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.predictors.observations import Floats, Kin

ALIKE: dict[Kin, float] = {"run": 0.99, "recipe": 0.98, "task": 0.95}  # correlations where predictions are the same
REACH = 2.0  # deviations: where predictions lie so far apart, the correlation has fallen to 1 / e
STRETCH = 1.5  # of differences of predictions that are small beside the reach
_LEAST = 1e-9  # reach of predictions that are sure


@dataclass(frozen=True)
class Points:
    """Weights of one run or of two, of which the last two are compared: arrays with one entry a point.

    Attributes:
        predicted: test accuracies.
        deviations: of the predictions.
        epochs: how many had been trained; NaN where that is not known.
        runs: which run each is of.
    """

    predicted: Floats
    deviations: Floats
    epochs: Floats
    runs: NDArray[np.int64]

    @classmethod
    def of(
        cls, predicted: Sequence[float], deviations: Sequence[float], epochs: Sequence[float], runs: Sequence[int]
    ) -> Points:
        """From plain sequences."""
        said, sizes, times = (np.array(column, np.float64) for column in (predicted, deviations, epochs))
        return cls(said, sizes, times, np.array(runs, np.int64))

    @property
    def reach(self) -> float:
        """How far predictions must lie apart to miss other things."""
        return max(REACH * float(self.deviations[-2:].min()), _LEAST)

    def stretched(self) -> Floats:
        """The predictions, moved away from the middle of the last two where they lie near it."""
        away = self.predicted - self.predicted[-2:].mean()
        moved: Floats = self.predicted + (STRETCH - 1) * self.reach * np.tanh(away / self.reach)
        return moved

    def covariance(self, between: float) -> Floats:
        """The covariance of what the predictions miss, shape (points, points).

        `between` is the correlation of two runs where predictions are the same.
        """
        one_run = self.runs[:, None] == self.runs
        alike = np.where(one_run, ALIKE["run"], between)
        alike = alike * np.exp(-np.abs(self.predicted[:, None] - self.predicted) / self.reach)
        alike[one_run & (self.epochs[:, None] == self.epochs)] = 1.0
        np.fill_diagonal(alike, 1.0)
        covariance: Floats = alike * np.outer(self.deviations, self.deviations)
        return covariance
