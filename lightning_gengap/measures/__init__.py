"""The table of measures; adding one is a file here and a line below. Nothing in this folder knows Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lightning_gengap.derivatives.jacobian import one_line, out_of_memory
from lightning_gengap.errors import MeasureError
from lightning_gengap.measures.curvature.diagonal_curvature import diagonal_curvature
from lightning_gengap.measures.curvature.hessian import hessian
from lightning_gengap.measures.curvature.kronecker_curvature import kronecker_curvature
from lightning_gengap.measures.curvature.leave_one_out import leave_one_out, network_leave_one_out
from lightning_gengap.measures.curvature.soft_rank import full_soft_rank, soft_rank
from lightning_gengap.measures.curvature.tic import tic
from lightning_gengap.measures.difficulty.difficulty import difficulty
from lightning_gengap.measures.difficulty.input_difficulty import input_difficulty
from lightning_gengap.measures.difficulty.kernel_difficulty import kernel_difficulty
from lightning_gengap.measures.difficulty.representation import representation
from lightning_gengap.measures.difficulty.separability import separability
from lightning_gengap.measures.margins.bartlett import bartlett
from lightning_gengap.measures.margins.calibration import calibration
from lightning_gengap.measures.margins.fit import fit
from lightning_gengap.measures.margins.k_variance import k_variance
from lightning_gengap.measures.margins.margin import margin
from lightning_gengap.measures.margins.perturbed_margin import perturbed_margin
from lightning_gengap.measures.norms.complexity import complexity
from lightning_gengap.measures.norms.distance import distance
from lightning_gengap.measures.norms.norm import norm
from lightning_gengap.measures.norms.norm_product import norm_product
from lightning_gengap.measures.norms.path_norm import path_norm
from lightning_gengap.measures.perturbation.augmentation import augmentation
from lightning_gengap.measures.perturbation.perturbation import perturbation
from lightning_gengap.measures.sharpness.adaptive_sharpness import adaptive_sharpness
from lightning_gengap.measures.sharpness.gradient_noise import gradient_noise
from lightning_gengap.measures.sharpness.pac_bayes import pac_bayes
from lightning_gengap.measures.sharpness.sharpness import sharpness
from lightning_gengap.measures.sharpness.worst_case import worst_case
from lightning_gengap.network.probe import Probe


@dataclass(frozen=True)
class Measure:
    """A measure and what it declares.

    Attributes:
        function: from a probe to values by key.
        forwards: its cost at a first measurement, in forward passes over a probe of 1,024 samples: the multiplications
            of the network's layers, where a backward pass through the activations alone counts as one and a full one
            as two. Right within 30 % on the tests' network; where `besides` names what else takes time, the whole as it
            was timed with ResNets on a CPU (docs/costs.md). The margins, which are always taken, count only for
            themselves.
        at_most: the upper bound of that where it depends on the model, as that of a search does.
        besides: what else takes time, in words.
        per_training: whether it describes the task and the initial weights, so that it is measured once per training.
        drawn_by_place: whether what a sample draws (its partner, noise or sign) goes by its place in the probe: the
            same at every measurement of a run, but another order of the samples is another draw.
    """

    function: Callable[[Probe], dict[str, float]]
    forwards: float
    per_training: bool = False
    drawn_by_place: bool = False
    at_most: float | None = None
    besides: str = ""


MEASURES = {
    "margin": Measure(margin, forwards=2.0),
    "fit": Measure(fit, forwards=0.0),
    "norm": Measure(norm, forwards=0.1, besides="singular values of dense layers"),
    "perturbation": Measure(perturbation, forwards=5.0, drawn_by_place=True),
    "difficulty": Measure(
        difficulty,
        forwards=1.0,
        per_training=True,
        besides="an eigendecomposition (examples x examples)",
        drawn_by_place=True,
    ),
    "calibration": Measure(calibration, forwards=0.0),
}
# Dear, or defined for fewer networks: taken only where they are asked for by name.
ON_REQUEST = {
    "path_norm": Measure(path_norm, forwards=4.0, besides="its few forwards are in float64"),
    "distance": Measure(distance, forwards=0.1, besides="singular values of dense layers"),
    "bartlett": Measure(bartlett, forwards=0.1, besides="singular values of dense layers"),
    "complexity": Measure(
        complexity, forwards=1.5, besides="singular values of the kernels and of their Fourier transforms"
    ),
    "norm_product": Measure(norm_product, forwards=0.5, besides="singular values of the kernels"),
    "k_variance": Measure(
        k_variance, forwards=4.0, drawn_by_place=True, besides="a matching of about 100 x 100 per class"
    ),
    "separability": Measure(separability, forwards=2.0, drawn_by_place=True),
    "gradient_noise": Measure(
        gradient_noise, forwards=16.0, drawn_by_place=True, besides="every sample's gradients written out"
    ),
    "sharpness": Measure(sharpness, forwards=31.0),
    "pac_bayes": Measure(pac_bayes, forwards=100.0, at_most=303.0),
    "adaptive_sharpness": Measure(adaptive_sharpness, forwards=161.0),
    "worst_case": Measure(worst_case, forwards=300.0, at_most=1040.0),
    "soft_rank": Measure(soft_rank, forwards=130.0, drawn_by_place=True, at_most=490.0),
    "full_soft_rank": Measure(full_soft_rank, forwards=260.0, drawn_by_place=True, at_most=980.0),
    "tic": Measure(tic, forwards=100.0, drawn_by_place=True, at_most=130.0),
    "diagonal_curvature": Measure(diagonal_curvature, forwards=28.0, besides="every sample's gradients written out"),
    "kronecker_curvature": Measure(kronecker_curvature, forwards=38.0, besides="the factors and their eigenvalues"),
    "hessian": Measure(hessian, forwards=400.0, at_most=450.0),
    "leave_one_out": Measure(
        leave_one_out, forwards=1.0, besides="a solve with the last layer's weights, up to 6 s on one core"
    ),
    "network_leave_one_out": Measure(
        network_leave_one_out,
        forwards=20.0,
        besides="the Gram matrix of what is differentiated sample by sample, and a solve, up to a minute on one core",
    ),
    "augmentation": Measure(augmentation, forwards=10.0, drawn_by_place=True),
    "perturbed_margin": Measure(
        perturbed_margin, forwards=5.0, drawn_by_place=True, besides="moments of the first layer's outputs in float64"
    ),
    "representation": Measure(representation, forwards=2.0, besides="three eigendecompositions (examples x examples)"),
    "input_difficulty": Measure(
        input_difficulty,
        forwards=2.0,
        per_training=True,
        drawn_by_place=True,
        besides="two convolutions of the images, three eigendecompositions (examples x examples)",
    ),
    "kernel_difficulty": Measure(
        kernel_difficulty,
        forwards=8.0,
        per_training=True,
        besides="every sample's gradient written out",
    ),
}


def compute(probe: Probe, names: Iterable[str]) -> dict[str, float]:
    """The values of the named measures; undefined ones are absent, never NaN.

    Call inside `undisturbed(probe.model)`.

    Raises:
        MeasureError: an unknown name, where the message lists those that are known; or a measure that failed, where
            it names the measure and the cause.
    """
    values: dict[str, float] = {}
    for name in names:
        entry = get_measure(name)
        try:
            found = entry.function(probe)
        except Exception as error:
            raise _failed(name, error) from error
        finite = {key: value for key, value in found.items() if math.isfinite(value)}
        if found and not finite:
            probe.notes.append(f"{name} is absent: its values are not finite")
        values |= finite
    return values


def _failed(name: str, error: Exception) -> MeasureError:
    report = "Please report it if it should be defined for this model; the other measures can be taken without it."
    remedy = "Use fewer samples." if out_of_memory(error) else report
    return MeasureError(f"measure {name!r}", got=one_line(error), expected="its values", remedy=remedy)


def get_measure(name: str) -> Measure:
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
