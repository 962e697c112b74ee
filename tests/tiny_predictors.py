"""Predictors made by hand, so that no test depends on a fitted one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning_gengap import GapMonitor
from lightning_gengap.monitor.logged_keys import PREDICTED
from lightning_gengap.predictors.parts import Feature, Interval
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.predictors.specification import Specification

SOMETIMES = {"actual_gap", "predicted_loss_gap"}  # with a validation; with a loss head
ALWAYS = {f"gengap/{key}" for key in (*PREDICTED, "train_accuracy", "train_loss") if key not in SOMETIMES}


def wide_feature(name: str, transform: str, coefficient: float, **changes: float) -> Feature:
    """A feature that no value is outside of."""
    feature = Feature(name, transform, coefficient, centre=0.0, low=-1e6, high=1e6, deviation=1.0, floor=1e-6)
    return replace(feature, **changes)


def tiny_predictor(**changes: Any) -> Predictor:
    """gap = 0.1 - 0.01 log(train_loss) - 0.05 ridge accuracy; it supports everything."""
    predictor = Predictor(
        name="tiny_v1",
        measures=("difficulty",),
        intercept=0.1,
        features=(
            wide_feature("train_loss", "log", -0.01),
            wide_feature("difficulty/ridge_accuracy", "identity", -0.05),
        ),
        interval=Interval(level=0.9, offset=0.05, below=-0.5, above=0.8),
        prior_gap=0.2,
        specification=Specification("tiny_v1", ()),
        provenance={},
        scores={},
    )
    return replace(predictor, **changes)


def abstaining_predictor(**changes: Any) -> Predictor:
    """One feature is too far beyond its range, so that every prediction is an abstention, for all that is known."""
    far = wide_feature("train_loss", "identity", 1.0, low=1e3)
    return tiny_predictor(name="far_v1", measures=(), features=(far,), **changes)


def hopeless_predictor(**changes: Any) -> Predictor:
    """One feature is never measured, so that every prediction is an abstention for good."""
    missing = wide_feature("perturbation/mix_accuracy", "identity", 1.0)
    return tiny_predictor(name="absent_v1", measures=(), features=(missing,), **changes)


def tiny_monitor(**changes: Any) -> GapMonitor:
    """A monitor with the tiny predictor that measures whenever due and logs scalars only."""
    arguments: dict[str, Any] = {"predictor": tiny_predictor(), "budget": None, "verbosity": "quiet"}
    return GapMonitor(**(arguments | changes))
