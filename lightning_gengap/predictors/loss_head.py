"""The loss head: test minus train loss, predicted in logs from the same measured values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.predictors.feature import Feature, Floats, contributions

PREDICTED_GAP = "predicted_gap"  # a feature of loss heads alone: the accuracy gap that the predictor itself says
_LARGEST_LOG = 5.0


@dataclass(frozen=True)
class LossHead:
    """The loss gap (test minus train, nats): its log is linear in the features, one of which may be `PREDICTED_GAP`.

    Attributes:
        below, above: quantiles over held-out tasks of log actual minus log predicted, at the interval's level.
    """

    intercept: float
    features: tuple[Feature, ...]
    below: float
    above: float

    @property
    def needs(self) -> tuple[str, ...]:
        """The measured keys of its features."""
        return tuple(feature.name for feature in self.features if feature.name != PREDICTED_GAP)

    @property
    def prior(self) -> tuple[float, float, float]:
        """What is said while abstaining: the centre of the fitted rows, and an interval from zero on."""
        return math.exp(self.intercept), 0.0, math.exp(self.intercept + self.above)

    def log_gaps(self, values: Mapping[str, Floats]) -> Floats:
        """The log of the loss gap, NaN where a feature was not measured."""
        return np.asarray(self.intercept + sum(contributions(self.features, values).values()))

    def predict_columns(
        self, values: Mapping[str, Floats], abstained: NDArray[np.bool_]
    ) -> tuple[Floats, Floats, Floats]:
        """Loss gaps with their lower and upper ends: the prior where the predictor of the accuracy gap abstains."""
        gap = np.exp(np.minimum(self.log_gaps(values), _LARGEST_LOG))
        ends = (gap, gap * math.exp(self.below), gap * math.exp(self.above))
        said = [np.where(abstained, prior, end) for prior, end in zip(self.prior, ends, strict=True)]
        return said[0], said[1], said[2]
