"""Evidence that a user has from elsewhere: observed gaps of other models, and estimates of the final accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from lightning_gengap.errors import PredictorError
from lightning_gengap.predictors.estimate import EstimatedAccuracy
from lightning_gengap.predictors.observations import Observation
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.predictors.recalibration import number, observations_of


@runtime_checkable
class Curve(Protocol):
    """What a learning curve has, as `learning_curve` gives it."""

    def estimate(self) -> Any:
        """The accuracy of a training on all samples, with `accuracy` and `deviation`."""

    def differences(
        self, module: Any, dataset: Any, target: Any = None, collate: Any = None, training: Any = None
    ) -> list[str]:
        """In what this module, these samples and this training differ from those of the curve."""


@dataclass(frozen=True)
class Given:
    """Evidence from elsewhere.

    Attributes:
        pairs: observed gaps of other models, beside what the predictor says of them.
        at_end: the test accuracy that the training will end with.
        curves: learning curves that say so, if they are of the same recipe and data.
    """

    pairs: tuple[Observation, ...] = ()
    at_end: tuple[EstimatedAccuracy, ...] = ()
    curves: tuple[Curve, ...] = ()

    @staticmethod
    def of(predictor: Predictor | None, evidence: Iterable[Any] | None) -> Given:
        """What a monitor with this predictor is given; `evidence` is a list of pairs, curves and estimates.

        Raises:
            PredictorError: one of them is neither, or cannot be used.
        """
        if predictor is None:
            return Given()
        listed = [] if evidence is None else list(evidence)
        at_end = tuple(dict.fromkeys(_checked(one) for one in listed if isinstance(one, EstimatedAccuracy)))
        curves = tuple(one for one in listed if isinstance(one, Curve))
        others = [one for one in listed if not isinstance(one, EstimatedAccuracy | Curve)]
        pairs = observations_of(replace(predictor, observed=()), others) if others else ()
        pairs = tuple(dict.fromkeys((*predictor.observed, *pairs)))  # what is listed twice is known once
        return Given(pairs, at_end, curves)


def _checked(curve: EstimatedAccuracy) -> EstimatedAccuracy:
    accuracy, deviation = (number(each) for each in curve)
    if accuracy is None or deviation is None or not (0 <= accuracy <= 1 and deviation > 0):
        raise PredictorError(
            "estimated accuracy",
            got=repr(tuple(curve)),
            expected="a test accuracy in [0, 1] and its standard deviation above 0, as fractions",
            remedy="Divide percentages by 100.",
        )
    return EstimatedAccuracy(accuracy, deviation)
