"""What a prediction and all evidence say together of one model: the estimate. Numpy alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lightning_gengap.predictors.evidence import believed, equivalent_hold_out
from lightning_gengap.predictors.observations import Observation
from lightning_gengap.predictors.parts import NORMAL_QUANTILE, probe_error
from lightning_gengap.predictors.predictor import Prediction


class EstimatedAccuracy(NamedTuple):
    """The test accuracy that a training will end with, estimated elsewhere: by a learning curve, for example.

    Attributes:
        accuracy: a fraction.
        deviation: its standard deviation, above 0.
    """

    accuracy: float
    deviation: float


@dataclass(frozen=True)
class Estimate:
    """The gap with its interval of 90 %, and the test accuracy, as fractions; what it is worth in held-out samples."""

    gap: float
    lower: float
    upper: float
    test_accuracy: float
    equivalent_hold_out: float


def estimate(
    prediction: Prediction,
    values: Mapping[str, float],
    observations: Sequence[Observation],
    epoch: float,
    scale: float = 1.0,
) -> Estimate | None:
    """The estimate for the weights at this epoch; None where the predictor abstains and nothing was observed.

    Without observations it is the prediction. With some, the interval is that of a normal distribution, and the gap has
    the error of the train accuracy besides, which is known from the measured samples only.

    Args:
        prediction: without any observation.
        values: that it was made from.
        observations: of the same run, of others, or of both.
        epoch: how many epochs have been trained.
        scale: of the prediction's deviation beside evidence. See `Scales`.
    """
    own = [one for one in observations if one.kin == "run"]
    if prediction.abstained and not own:
        return None
    accuracy = values["train_accuracy"]
    predicted = accuracy - prediction.gap
    if not observations:
        gap, worth = prediction.gap, equivalent_hold_out(predicted, (scale * prediction.deviation) ** 2)
        return Estimate(gap, prediction.lower, prediction.upper, predicted, worth)
    after = believed(observations, epoch, prediction.deviation, scale)
    variance = float(after.variance[0])
    test = min(max(predicted + float(after.mean[0]), 0.0), 1.0)
    sampling = probe_error(accuracy, values.get("probe_samples", math.nan), values.get("train_samples", math.nan))
    half = NORMAL_QUANTILE * math.hypot(variance**0.5, sampling)
    gap = accuracy - test
    lower, upper = max(gap - half, accuracy - 1), min(gap + half, accuracy)
    return Estimate(gap, lower, upper, test, equivalent_hold_out(test, variance))


def observed(
    accuracy: float, samples: int, source: str, prediction: Prediction, train_accuracy: float, epoch: float
) -> Observation:
    """An accuracy that was observed on so many samples at the weights that the prediction is of."""
    predicted = train_accuracy - prediction.gap
    return Observation(accuracy, predicted, prediction.deviation, samples, 0.0, epoch, source)


def expected(curve: EstimatedAccuracy, prediction: Prediction, train_accuracy: float, epoch: float) -> Observation:
    """An estimate of the final accuracy, beside what is predicted of the last epoch."""
    at_end = observed(curve.accuracy, 0, "learning curve", prediction, train_accuracy, epoch)
    return replace(at_end, error=curve.deviation)
