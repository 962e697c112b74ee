"""The table of measures; adding one is a file here and a line below. Nothing in this folder knows Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lightning_gengap.errors import MeasureError
from lightning_gengap.measures.difficulty import difficulty
from lightning_gengap.measures.fit import fit
from lightning_gengap.measures.margin import margin
from lightning_gengap.measures.norm import norm
from lightning_gengap.measures.perturbation import perturbation
from lightning_gengap.probe import Probe


@dataclass(frozen=True)
class Measure:
    """A measure and what it declares.

    Attributes:
        function: from a probe to values by key.
        forwards: its cost in forward passes over the probe.
        once: whether it describes the task and the initial weights, so that it is measured once per training.
    """

    function: Callable[[Probe], dict[str, float]]
    forwards: float
    once: bool = False


MEASURES = {
    "margin": Measure(margin, forwards=2.0),
    "fit": Measure(fit, forwards=0.0),
    "norm": Measure(norm, forwards=0.1),
    "perturbation": Measure(perturbation, forwards=5.0),
    "difficulty": Measure(difficulty, forwards=1.0, once=True),
}


def compute(probe: Probe, names: Iterable[str]) -> dict[str, float]:
    """The values of the named measures; undefined ones are absent, never NaN.

    Call inside `undisturbed(probe.model)`.

    Raises:
        MeasureError: an unknown name; the message lists those that are known.
    """
    values: dict[str, float] = {}
    for name in names:
        values |= known(name).function(probe)
    return {key: value for key, value in values.items() if math.isfinite(value)}


def known(name: str) -> Measure:
    """The table's entry for `name`.

    Raises:
        MeasureError: there is none.
    """
    if name not in MEASURES:
        raise MeasureError(
            "measure", got=repr(name), expected=f"one of {', '.join(MEASURES)}", remedy="Check the spelling."
        )
    return MEASURES[name]
