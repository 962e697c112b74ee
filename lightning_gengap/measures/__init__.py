"""The table of measures; adding one is a file here and a line below. Nothing in this folder knows Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lightning_gengap.errors import MeasureError
from lightning_gengap.measures.bartlett import bartlett
from lightning_gengap.measures.calibration import calibration
from lightning_gengap.measures.difficulty import difficulty
from lightning_gengap.measures.distance import distance
from lightning_gengap.measures.fit import fit
from lightning_gengap.measures.gradient_noise import gradient_noise
from lightning_gengap.measures.k_variance import k_variance
from lightning_gengap.measures.leave_one_out import leave_one_out, network_leave_one_out
from lightning_gengap.measures.margin import margin
from lightning_gengap.measures.norm import norm
from lightning_gengap.measures.pac_bayes import pac_bayes
from lightning_gengap.measures.path_norm import path_norm
from lightning_gengap.measures.perturbation import perturbation
from lightning_gengap.measures.separability import separability
from lightning_gengap.measures.sharpness import sharpness
from lightning_gengap.measures.soft_rank import soft_rank
from lightning_gengap.measures.tic import tic
from lightning_gengap.measures.worst_case import worst_case
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
    "calibration": Measure(calibration, forwards=0.0),
}
# Dear, or defined for fewer networks: taken only where they are asked for by name.
ON_REQUEST = {
    "path_norm": Measure(path_norm, forwards=0.2),
    "distance": Measure(distance, forwards=0.1),
    "bartlett": Measure(bartlett, forwards=0.1),
    "k_variance": Measure(k_variance, forwards=3.0),
    "separability": Measure(separability, forwards=2.0),
    "gradient_noise": Measure(gradient_noise, forwards=6.0),
    "sharpness": Measure(sharpness, forwards=31.0),
    "pac_bayes": Measure(pac_bayes, forwards=60.0),
    "worst_case": Measure(worst_case, forwards=240.0),
    "soft_rank": Measure(soft_rank, forwards=100.0),
    "tic": Measure(tic, forwards=100.0),
    "leave_one_out": Measure(leave_one_out, forwards=1.0),
    "network_leave_one_out": Measure(network_leave_one_out, forwards=200.0),
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
    """The entry for `name` in the tables.

    Raises:
        MeasureError: there is none.
    """
    entries = MEASURES | ON_REQUEST
    if name not in entries:
        raise MeasureError(
            "measure", got=repr(name), expected=f"one of {', '.join(entries)}", remedy="Check the spelling."
        )
    return entries[name]
