"""Evidence that a user has from elsewhere: observed gaps of other models, and estimates of the final accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from lightning_gengap.errors import PredictorError
from lightning_gengap.predictors.estimate import EstimatedAccuracy
from lightning_gengap.predictors.observations import Observation
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.predictors.recalibration import observations_of


@dataclass(frozen=True)
class Given:
    """Evidence from elsewhere.

    Attributes:
        pairs: observed gaps of other models, beside what the predictor says of them.
        at_end: the test accuracy that the training will end with, by a learning curve for example.
    """

    pairs: tuple[Observation, ...] = ()
    at_end: tuple[EstimatedAccuracy, ...] = ()

    @staticmethod
    def of(predictor: Predictor | None, evidence: Iterable[Any] | None) -> Given:
        """What a monitor with this predictor is given; `evidence` is a list of pairs and estimates.

        Raises:
            PredictorError: one of them is neither, or cannot be used.
        """
        if predictor is None:
            return Given()
        listed = [] if evidence is None else list(evidence)
        at_end = tuple(_checked(one) for one in listed if isinstance(one, EstimatedAccuracy))
        others = [one for one in listed if not isinstance(one, EstimatedAccuracy)]
        pairs = observations_of(replace(predictor, observed=()), others) if others else ()
        return Given((*predictor.observed, *pairs), at_end)


def _checked(curve: EstimatedAccuracy) -> EstimatedAccuracy:
    numbers = all(isinstance(each, Real) and math.isfinite(each) for each in curve)
    if not (numbers and 0 <= curve.accuracy <= 1 and curve.deviation > 0):
        raise PredictorError(
            "estimated accuracy",
            got=repr(tuple(curve)),
            expected="a test accuracy in [0, 1] and its standard deviation above 0, as fractions",
            remedy="Divide percentages by 100.",
        )
    return curve
