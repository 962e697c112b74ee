"""The arguments of GapMonitor: ones that cannot work are refused before any training."""

from __future__ import annotations

from numbers import Real
from pathlib import Path

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.predictors.predictor import Predictor


def check_arguments(
    predictor: object,
    every_n_epochs: object,
    every_n_train_steps: object,
    samples: object,
    budget: object,
    verbosity: object,
    on_error: object,
    measures: object,
) -> None:
    """Refuse arguments of another type or out of their range."""
    kinds = str | Path | Predictor | None
    _require("predictor", predictor, isinstance(predictor, kinds), "a name, a path, a Predictor or None")
    _require("every_n_epochs", every_n_epochs, _at_least(1, every_n_epochs), "at least 1")
    steps = every_n_train_steps
    _require("every_n_train_steps", steps, steps is None or _at_least(1, steps), "at least 1, or None")
    alone = steps is None or every_n_epochs == 1
    _require("every_n_train_steps", steps, alone, f"None beside every_n_epochs={every_n_epochs}")
    _require("samples", samples, _at_least(20, samples), "at least 20")
    is_share = isinstance(budget, Real) and 0 < float(budget) <= 1
    _require("budget", budget, budget is None or is_share, "a share in (0, 1], or None")
    _require("verbosity", verbosity, verbosity in ("quiet", "normal", "full"), "'quiet', 'normal' or 'full'")
    _require("on_error", on_error, on_error in ("warn", "raise"), "'warn' or 'raise'")
    _require("measures", measures, not isinstance(measures, str), "a sequence of names")


def _at_least(least: int, value: object) -> bool:
    return isinstance(value, Real) and float(value) >= least


def _require(argument: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigurationError(f"GapMonitor({argument}=)", got=repr(value), expected=expected, remedy="See its docs.")
