"""One term of a predictor: a measured value, its transform and coefficient, and how far the fitted rows reached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.predictors.specification import DEVIATION, LOG_SIZE, LOG_SIZE_ABOVE

Floats = NDArray[np.float64]
FARTHEST_TRAIN_SAMPLES = 20.0  # times the largest training set of the fit
_REACH = math.log(FARTHEST_TRAIN_SAMPLES)


@dataclass(frozen=True)
class Feature:
    """A term adds coefficient x (transform(value) - centre) to the gap.

    Attributes:
        name: the measured key.
        transform: `identity` or `log`.
        floor: smallest raw value before the log.
        centre, low, high, deviation: mean, range and standard deviation in the fitted rows, in transformed units.
        scale: the unit of distances, as in `Term`.
    """

    name: str
    transform: str
    coefficient: float
    centre: float
    low: float
    high: float
    deviation: float
    floor: float
    scale: str = DEVIATION

    def transformed(self, values: Floats) -> Floats:
        """The values on the feature's scale; NaN stays NaN."""
        return np.log(np.maximum(values, self.floor)) if self.transform == "log" else values

    def distance(self, values: Floats) -> Floats:
        """How far outside the fitted range: 0 inside it, 1 at the end of the near region, infinite if not measured."""
        position = self.transformed(values)
        beyond = np.maximum(np.maximum(self.low - position, position - self.high), 0.0)
        if self.deviation > 0:
            distance = beyond / self.deviation
        else:
            distance = np.where(beyond > 1e-9, math.inf, 0.0)
        if self.scale == LOG_SIZE:
            distance = beyond / _REACH
        elif self.scale == LOG_SIZE_ABOVE:
            distance = np.where(position > self.high, beyond / _REACH, distance)
        return np.where(np.isfinite(values), distance, math.inf)

    def nearest(self, values: Floats) -> Floats:
        """Values more than one deviation outside the fitted range, moved there; a train size may be any larger one."""
        low, high = self.low - self.deviation, self.high + self.deviation
        if self.scale == LOG_SIZE_ABOVE:
            high = math.inf
        if self.transform == "log":
            low, high = math.exp(min(low, 700.0)), math.exp(high) if high < 700 else math.inf
        return np.clip(values, low, high)


def contributions(features: Sequence[Feature], values: Mapping[str, Floats]) -> dict[str, Floats]:
    """What each feature adds, by name."""
    return {f.name: f.coefficient * (f.transformed(values[f.name]) - f.centre) for f in features}
