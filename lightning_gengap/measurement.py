"""The result of one measurement: values, what is absent, and why. No Lightning."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor

from lightning_gengap.measures import MEASURED
from lightning_gengap.measures.derived import INGREDIENTS, derived
from lightning_gengap.measures.measure import Computed
from lightning_gengap.measures.values import Figure


class Absence(NamedTuple):
    """Why a key, or a pattern of keys that ends in `*`, has no value."""

    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key} is absent: {self.reason}"


def said(absences: Iterable[Absence]) -> list[str]:
    """One sentence for each reason, with all keys that are absent for it."""
    keys: dict[str, list[str]] = {}
    for key, reason in dict.fromkeys(absences):
        keys.setdefault(reason, []).append(key)
    return [
        str(Absence(of_reason[0], reason))
        if len(of_reason) == 1
        else f"each of {', '.join(of_reason)} is absent: {reason}"
        for reason, of_reason in keys.items()
    ]


@dataclass
class Measurement:
    """The result of one measurement.

    Attributes:
        values: numbers by key, without the `gengap/` prefix. Undefined values are absent.
        optional: numbers by key for each optional measure that was taken now and succeeded.
        failures: the error of each optional measure that failed.
        seconds: the time that each optional measure took.
        figures: histograms and spectra by key.
        samples: how many were measured, but for optional measures and those taken once.
        seconds_of_needed: the time that the measures took that must succeed, but for those taken once.
        seconds_of_growing: the time of what measures took that they could also have taken another time, but at first.
        remarks: what the user should know about the values, beside the absences.
        right: whether each sample is classified right; None where `fit` was not measured, or has no value.
    """

    values: dict[str, float] = field(default_factory=dict)
    optional: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    absences: list[Absence] = field(default_factory=list)
    remarks: tuple[str, ...] = ()
    right: Tensor | None = None
    samples: int = 0
    seconds_of_needed: float = 0.0
    seconds_of_growing: float = 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should be told, one sentence each."""
        return tuple(dict.fromkeys((*said(self.absences), *self.remarks)))

    def complete(self, values: dict[str, float], names: Iterable[str]) -> None:
        """Take over all values of the needed measures, of these names, with what all values derive."""
        for name, found in self.optional.items():
            self.optional[name] = found | _own_derived(name, values | found)
        self.values = values | derived(values)
        self.absences += _derived_absences({*names, *self.optional}, self)

    def add(self, computed: Computed) -> None:
        """Take over the figures of some measures and the reasons for what is absent."""
        self.figures |= computed.figures
        self.absences += [Absence(*why) for absent in computed.absent.values() for why in absent.items()]


def _derived_absences(taken: Collection[str], measurement: Measurement) -> Iterator[Absence]:
    """What the measures just taken cannot derive, for the reason of the ingredient that is missing."""
    reasons = [*measurement.absences, Absence("train_samples", "the number of training samples is unknown")]
    known = {*measurement.values, *(key for found in measurement.optional.values() for key in found)}
    for key, ingredients in INGREDIENTS.items():
        if MEASURED[key].measure in taken and key not in known:
            missing = (name for name in ingredients if name not in known)
            why = (absence.reason for name in missing for absence in reasons if fnmatchcase(name, absence.key))
            reason = next(why, None)
            if reason is not None and not any(fnmatchcase(key, absence.key) for absence in measurement.absences):
                yield Absence(key, reason)


def _own_derived(name: str, values: dict[str, float]) -> dict[str, float]:
    """The derived values that are declared as the measure's."""
    return {key: value for key, value in derived(values).items() if MEASURED[key].measure == name}
