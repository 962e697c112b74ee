"""The arguments of a monitor: those that cannot work are refused, and which measures the others ask for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.measures import BY_DEFAULT, MEASURED, get_measure
from lightning_gengap.measures.derived import with_ingredients
from lightning_gengap.monitor.schedule import DEAR, Schedule
from lightning_gengap.predictors.predictor import Predictor


def check_arguments(
    predictor: object, every_n_epochs: int, samples: int, budget: float | None, verbosity: str, on_error: str
) -> None:
    """Refuse values that no monitor can work with.

    Raises:
        ConfigurationError: says which argument, and what it may be.
    """
    kinds = str | Path | Predictor | None
    _require("predictor", predictor, isinstance(predictor, kinds), "a name, a path, a Predictor or None")
    _require("every_n_epochs", every_n_epochs, every_n_epochs >= 1, "at least 1")
    _require("samples", samples, samples >= 20, "at least 20")
    _require("budget", budget, budget is None or 0 < budget <= 1, "a share in (0, 1], or None")
    _require("verbosity", verbosity, verbosity in ("quiet", "normal", "full"), "'quiet', 'normal' or 'full'")
    _require("on_error", on_error, on_error in ("warn", "raise"), "'warn' or 'raise'")


@dataclass(frozen=True)
class Selection:
    """The measures of one monitor.

    Attributes:
        measures: the names of all of them, each once.
        needed: those without which nothing new is shown; the others are further ones.
        wanted: the only keys that are asked for, see `Probe`; None for all.
    """

    measures: tuple[str, ...]
    needed: tuple[str, ...]
    wanted: frozenset[str] | None

    def schedule(self) -> Schedule:
        """What is measured once per training belongs to its start-up, which the budget does not count."""
        costs = {name: 0.0 if get_measure(name).per_training else get_measure(name).forwards for name in self.measures}
        extras = {name: forwards for name, forwards in costs.items() if name not in self.needed}
        return Schedule(extras, sum(forwards for name, forwards in costs.items() if extras.get(name, 0.0) <= DEAR))

    def once(self, taken: Collection[str]) -> tuple[list[str], list[str]]:
        """Measures that are taken once per training and are not among `taken`: the needed and the further ones."""
        missing = [name for name in self.measures if get_measure(name).per_training and name not in taken]
        return [name for name in missing if name in self.needed], [name for name in missing if name not in self.needed]


def select(predictor: Predictor | None, measures: Sequence[str], every: bool) -> Selection:
    """Choose the measures of a monitor.

    Args:
        predictor: whose measures are needed; None needs only those that describe the fit.
        measures: names of further measures, all of whose keys are asked for.
        every: whether every other measure and key is asked for too.

    Raises:
        ConfigurationError: `measures` is one name.
        MeasureError: an unknown measure.
    """
    _require("measures", measures, not isinstance(measures, str), "a sequence of names")
    needed = ("margin", "fit", *(() if predictor is None else predictor.measures))
    names = dict.fromkeys((*needed, *measures, *(BY_DEFAULT if every else ())))
    chosen = tuple(name for name in names if get_measure(name))
    wanted = None
    if predictor is not None and not every:
        named = (key for key, declared in MEASURED.items() if declared.measure in measures)
        wanted = with_ingredients((*predictor.needs, *named))
    return Selection(chosen, tuple(dict.fromkeys(needed)), wanted)


def _require(argument: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigurationError(f"GapMonitor({argument}=)", got=repr(value), expected=expected, remedy="See its docs.")
