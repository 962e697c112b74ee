"""Parts of a predictor: its features and their groups, interval, scales and loss head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.predictors.specification import Scale, Transform

Floats = NDArray[np.float64]
FARTHEST_TRAIN_SAMPLES = 20.0  # times the largest training set of the fit
PREDICTED_GAP = "predicted_gap"  # a feature of loss heads alone: the accuracy gap that the predictor itself says
FITTED_SAMPLES = 1024  # on which the models of the zoo were measured, or on all where there were fewer
NORMAL_QUANTILE = 1.6448536269514722  # of 90 %, two-sided
_REACH = math.log(FARTHEST_TRAIN_SAMPLES)
_LARGEST_LOG = 5.0


@dataclass(frozen=True)
class Feature:
    """A term that adds coefficient x (transform(value) - centre) to the gap.

    Attributes:
        floor: smallest raw value before the log.
        centre, low, high, deviation: mean, range and standard deviation in the fitted rows, in transformed units.
        scale: the unit of distances, as in `Term`.
    """

    name: str
    transform: Transform
    coefficient: float
    centre: float
    low: float
    high: float
    deviation: float
    floor: float
    scale: Scale = "deviation"

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
        if self.scale == "log_size":
            distance = beyond / _REACH
        elif self.scale == "log_size_above":
            distance = np.where(position > self.high, beyond / _REACH, distance)
        return np.where(np.isfinite(values), distance, math.inf)

    def nearest(self, values: Floats) -> Floats:
        """Values more than one deviation outside the fitted range, moved there; a train size may be any larger one."""
        low, high = self.low - self.deviation, self.high + self.deviation
        if self.scale == "log_size_above":
            high = math.inf
        if self.transform == "log":
            low, high = math.exp(min(low, 700.0)), math.exp(high) if high < 700 else math.inf
        return np.clip(values, low, high)


def contributions(features: Sequence[Feature], values: Mapping[str, Floats]) -> dict[str, Floats]:
    """What each feature adds, by name."""
    return {f.name: f.coefficient * (f.transformed(values[f.name]) - f.centre) for f in features}


@dataclass(frozen=True)
class FeatureGroup:
    """Fitted measures of one kind. Where one is missing none adds; what lies far outside the range is moved near it."""

    name: str
    features: tuple[Feature, ...]

    def contributions(self, values: Mapping[str, Floats]) -> dict[str, Floats]:
        """What each feature adds, by name."""
        measured = np.isfinite([values[feature.name] for feature in self.features]).all(axis=0)
        near = {feature.name: feature.nearest(values[feature.name]) for feature in self.features}
        return {name: np.where(measured, added, 0.0) for name, added in contributions(self.features, near).items()}


@dataclass(frozen=True)
class Interval:
    """The interval's ends are gap + quantile x width, where the width is (gap + offset) x (1 + distance).

    Attributes:
        level: nominal coverage.
        below, above: quantiles of (actual - predicted) / (predicted + offset) over held-out tasks.
    """

    level: float
    offset: float
    below: float
    above: float

    @property
    def half_width(self) -> float:
        """The mean of both sides, in widths."""
        return (abs(self.below) + abs(self.above)) / 2


def sampling_error(accuracy: Floats, measured: Floats, train_samples: Floats) -> Floats:
    """Half the width that the interval lacks where fewer samples were measured than in the fit.

    An accuracy p on n of N samples differs from that on all N with variance p (1 - p) (1/n - 1/N), and the gap moves
    with it. The half-width of 90 % is added to the interval's own as independent errors are, in quadrature.

    Args:
        accuracy: p, on the measured samples.
        measured: n; zero is returned where it is unknown or not below N.
        train_samples: N is at most this, and at most `FITTED_SAMPLES`.
    """
    of_fit = np.fmin(train_samples, FITTED_SAMPLES)
    with np.errstate(invalid="ignore"):
        variance = np.maximum(accuracy * (1 - accuracy), 0.0) * np.maximum(1 / measured - 1 / of_fit, 0.0)
    return np.asarray(NORMAL_QUANTILE * np.sqrt(np.nan_to_num(variance)))


def probe_error(accuracy: float, measured: float, train_samples: float) -> float:
    """The standard deviation of an accuracy p on n of N samples around that on all of them; N may be unknown (NaN)."""
    missed = max(1 / measured - (0.0 if math.isnan(train_samples) else 1 / train_samples), 0.0)
    return math.sqrt(max(accuracy * (1 - accuracy), 0.0) * missed)


@dataclass(frozen=True)
class Scales:
    """What multiplies the deviation of a prediction beside evidence, by how much like the data the fit has seen.

    Attributes:
        known: tasks of the same source, such as CIFAR-10, were fitted.
        kind: tasks of the same kind were, such as colour images.
        neither: neither was, for all that is known.
    """

    known: float = 1.0
    kind: float = 1.0
    neither: float = 1.0


UNSCALED = Scales()


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
