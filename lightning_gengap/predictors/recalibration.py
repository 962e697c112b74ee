"""Move a predictor towards gaps that were really observed, and further with more of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import fmean

from lightning_gengap.errors import PredictorError
from lightning_gengap.predictors.parts import Correction
from lightning_gengap.predictors.predictor import Prediction, Predictor

Pair = tuple[Mapping[str, float], float]
_ASSUMED_SHARE = 0.2  # at the low end of what was measured, docs/recalibration.md
_LIVE_WEIGHT, _FADING = 0.8, 0.7


def recalibrate(predictor: Predictor, pairs: Iterable[Pair]) -> Predictor:
    """A predictor with the same features whose gap is scaled to fit observed gaps of your own models.

    Residuals are taken relative to (gap + offset), as the interval takes them. The models of one task have a share of
    the residuals' variance in common (`shared_by_task` in the provenance, measured on the zoo). So the mean residual
    of k pairs is shrunken by k share / (k share + 1 - share), and the interval becomes narrower by what is then known.
    The name of the result ends in `+recalibrated`.

    Args:
        predictor: bundled or your own. An earlier correction is replaced.
        pairs: for each model the values as `measure` returns them, and its observed gap as a fraction.

    Raises:
        PredictorError: the predictor abstains on every pair, or a gap lies outside [-1, 1].

    Example:
        >>> from lightning_gengap import load_predictor
        >>> from lightning_gengap.predictors.recalibration import recalibrate
        >>> predictor = load_predictor("default_v3")
        >>> values = {"train_accuracy": 0.99, "train_loss": 0.05, "classes": 10.0, "train_samples": 2000.0}
        >>> values |= {"difficulty/ridge_extrapolated": 0.8, "difficulty/neighbour_1_accuracy": 0.7}
        >>> own = recalibrate(predictor, [(values, 0.25)])
        >>> predictor.predict(values).gap < own.predict(values).gap < 0.25
        True
    """
    plain = replace(predictor, correction=None)
    residuals = []
    for values, gap in pairs:
        if not (math.isfinite(gap) and -1 <= gap <= 1):
            raise PredictorError(
                "recalibrate",
                got=f"an observed gap of {gap}",
                expected="train minus test accuracy as a fraction in [-1, 1]",
                remedy="Divide percentages by 100.",
            )
        prediction = plain.predict(values)
        if not prediction.abstained:
            residuals.append(scaled_residual(plain, prediction, gap))
    if not residuals:
        raise PredictorError(
            "recalibrate",
            got="no pair on which the predictor does not abstain",
            expected="at least one",
            remedy="Measure models that are trained further, or fit a predictor of your own with `gengap zoo fit`.",
        )
    correction = correction_of(plain, residuals)
    name = plain.name.removesuffix("+recalibrated") + "+recalibrated"
    return replace(plain, name=name, correction=correction)


def scaled_residual(predictor: Predictor, prediction: Prediction, gap: float) -> float:
    """(Observed - predicted) / (predicted + offset), as the interval scales it."""
    return (gap - prediction.gap) / (prediction.gap + predictor.interval.offset)


def correction_of(predictor: Predictor, residuals: list[float]) -> Correction:
    """The shrunken mean of the scaled residuals as a factor, and what it leaves of the interval's width."""
    share = float(predictor.provenance.get("shared_by_task", _ASSUMED_SHARE))
    count = len(residuals)
    weight = count * share / (count * share + 1 - share) if share > 0 else 0.0
    width = math.sqrt(1 - share + share * (1 - weight))
    return Correction(factor=1 + weight * fmean(residuals), width=width, pairs=count)


def recalibrated(predictor: Predictor, prediction: Prediction, correction: Correction, accuracy: float) -> float:
    """The gap that the predictor would give with a further correction; the values are not needed again.

    The prediction is no abstention: its contributions tell the gap before it was limited to [0, accuracy].
    """
    offset = predictor.interval.offset
    raw = prediction.gap - prediction.contributions["limits"]
    return min(max(correction.factor * (raw + offset) - offset, 0.0), accuracy)


def live_correction(residuals: list[float], age: int) -> Correction:
    """What the epochs of one run say of the present one: much of the last residual, and less when it is older.

    Residuals of one run are alike only while they are close in time, so many of them say no more than one. The
    weights are a compromise between the rules that `docs/recalibration.md` compares. The interval stays as it is.
    The latest residual comes last, and `age` counts the measurements since then.
    """
    return Correction(factor=1 + _LIVE_WEIGHT * _FADING**age * residuals[-1], width=1.0, pairs=len(residuals))
