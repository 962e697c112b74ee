"""Observed gaps of other models: what they say of a new one, in the same posterior as all evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal, NamedTuple, SupportsFloat

from lightning_gengap.errors import PredictorError
from lightning_gengap.predictors.observations import Observation
from lightning_gengap.predictors.predictor import Predictor


class ObservedGap(NamedTuple):
    """The gap of another model, observed on held-out samples.

    Attributes:
        values: of that model, as `measure` returns them.
        gap: train minus test accuracy, as a fraction.
        samples: how many held-out samples the test accuracy was measured on.
        same: whether the other model has the recipe of the new one (network, augmentation, optimizer) on the same data
            set, or the data set alone.
    """

    values: Mapping[str, float]
    gap: float
    samples: int
    same: Literal["recipe", "task"] = "task"


def recalibrate(predictor: Predictor, pairs: Iterable[ObservedGap | Sequence[Any]]) -> Predictor:
    """A predictor with the same features that knows the observed gaps of other models of yours.

    What a prediction misses is correlated between runs of one recipe (0.9) and of one task (0.3). The gap moves by the
    mean of what is missed given all pairs, each with its sampling error; the interval becomes narrower by what is then
    known. The name of the result ends in `+recalibrated`. `GapMonitor` with it logs the prediction of the predictor
    itself as `predicted_gap`, and what the pairs make of it as `estimated_gap`.

    Args:
        predictor: bundled or your own. Earlier pairs are replaced.
        pairs: an `ObservedGap` for each model, or plain tuples with its fields.

    Raises:
        PredictorError: the predictor abstains on every pair, a gap lies outside [-1, 1], or a pair does not say on how
            many samples it was observed.

    Example:
        >>> from lightning_gengap import ObservedGap, load_predictor
        >>> from lightning_gengap.predictors.recalibration import recalibrate
        >>> predictor = load_predictor("default_v3")
        >>> values = {"train_accuracy": 0.99, "train_loss": 0.05, "classes": 10.0, "train_samples": 2000.0}
        >>> values |= {"difficulty/ridge_extrapolated": 0.8, "difficulty/neighbour_1_accuracy": 0.7}
        >>> own = recalibrate(predictor, [ObservedGap(values, gap=0.25, samples=1000, same="recipe")])
        >>> predictor.predict(values).gap < own.predict(values).gap < 0.25
        True
    """
    plain = replace(predictor, observed=())
    name = plain.name.removesuffix("+recalibrated") + "+recalibrated"
    return replace(plain, name=name, observed=observations_of(plain, pairs))


def observations_of(predictor: Predictor, pairs: Iterable[ObservedGap | Sequence[Any]]) -> tuple[Observation, ...]:
    """The pairs beside what the predictor says of them, without those on which it abstains. See `recalibrate`."""
    observations = []
    for pair in pairs:
        observed = _checked(pair)
        prediction = predictor.predict(observed.values)
        if not prediction.abstained:
            accuracy = observed.values["train_accuracy"]
            observations.append(
                Observation(
                    accuracy=min(max(accuracy - observed.gap, 0.0), 1.0),
                    predicted=accuracy - prediction.gap,
                    deviation=prediction.deviation,
                    samples=int(observed.samples),
                    kin=observed.same,
                )
            )
    if not observations:
        raise PredictorError(
            "observed gaps",
            got="no pair on which the predictor does not abstain",
            expected="at least one",
            remedy="Measure models that are trained further, or fit a predictor of your own with `gengap zoo fit`.",
        )
    return tuple(observations)


def described(predictor: Predictor) -> str:
    """How far the observed gaps move a prediction, and what they leave of its uncertainty, in words."""
    moved, left = predictor.by_observed()
    return (
        f"by {len(predictor.observed)} observed gaps, which move the gap by {-moved:+.2f} deviations and leave "
        f"{left:.2f} of its width"
    )


def _checked(pair: Any) -> ObservedGap:
    """The pair with its fields of the right kinds."""
    remedy = "For example (values, 0.12, 1000, 'recipe')."
    try:
        observed = ObservedGap(*pair)
        fits = isinstance(observed.values, Mapping) and observed.same in ("recipe", "task")
    except TypeError:
        fits = False
    if not fits:
        expected = "(values, gap, number of held-out samples), and 'recipe' or 'task' for what is the same"
        raise PredictorError("observed gaps", got=_kind(pair), expected=expected, remedy=remedy)
    gap, samples = number(observed.gap), observed.samples
    if gap is None or not -1 <= gap <= 1:
        raise PredictorError(
            "observed gaps",
            got=f"an observed gap of {observed.gap!r}",
            expected="train minus test accuracy as a fraction in [-1, 1]",
            remedy="Divide percentages by 100.",
        )
    if not (isinstance(samples, Integral) and not isinstance(samples, bool) and samples >= 1):
        raise PredictorError(
            "observed gaps",
            got=f"a gap that was observed on {samples!r} samples",
            expected="the number of held-out samples, 1 or more",
            remedy=remedy,
        )
    return observed._replace(gap=gap)


def number(value: Any) -> float | None:
    """A finite number, or one in a tensor, as logged metrics are; None for anything else."""
    if isinstance(value, str | bytes | bool) or not isinstance(value, SupportsFloat):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError):  # of a tensor with several
        return None
    return found if math.isfinite(found) else None


def _kind(pair: Any) -> str:
    size = f" of {len(pair)} items" if isinstance(pair, list | tuple) else ""
    return f"a {type(pair).__name__}{size}"
