"""The registry of measures. A new one is a file in a room of this folder, a row below, and a test.

A file `measures/<room>/<name>.py` holds the function `<name>` and its `KEYS`: what it can give, by name. Its row is
`"<name>": Measure(<name>.<name>, <name>.KEYS, ...)`, with the module `<name>` imported from its room.

May import network, derivatives, linalg and what stands below them; nothing in this folder knows Lightning.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase

from lightning_gengap.errors import (
    GapError,
    Later,
    MeasureError,
    OtherKind,
    Undefined,
    closest,
    one_line,
    out_of_memory,
)
from lightning_gengap.measures import derived
from lightning_gengap.measures.agreement import agreement, copies, reference
from lightning_gengap.measures.curvature import (
    diagonal_curvature,
    hessian,
    kronecker_curvature,
    leave_one_out,
    network_leave_one_out,
    soft_rank,
    tic,
)
from lightning_gengap.measures.difficulty import (
    difficulty,
    input_difficulty,
    kernel_difficulty,
    representation,
    separability,
)
from lightning_gengap.measures.key import Key
from lightning_gengap.measures.margins import calibration, fit, k_variance, margin, perturbed_margin
from lightning_gengap.measures.measure import Computed, Measure, scalar_keys
from lightning_gengap.measures.norms import bartlett, complexity, distance, norm, norm_product, path_norm
from lightning_gengap.measures.perturbation import augmentation, perturbation
from lightning_gengap.measures.run_facts import FACTS
from lightning_gengap.measures.sharpness import adaptive_sharpness, gradient_noise, pac_bayes, sharpness, worst_case
from lightning_gengap.measures.values import Histogram, Spectrum
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.ranks import AnotherRankFailed

MEASURES: dict[str, Measure] = {
    "margin": Measure(margin.margin, margin.KEYS, by_default=True, forwards=2.0),
    "fit": Measure(fit.fit, fit.KEYS, by_default=True, forwards=1.0),
    "norm": Measure(norm.norm, norm.KEYS, by_default=True, forwards=0.1, besides="singular values of dense layers"),
    "perturbation": Measure(
        perturbation.perturbation, perturbation.KEYS, by_default=True, forwards=5.0, drawn_by_place=True, by_key=True
    ),
    "difficulty": Measure(
        difficulty.difficulty,
        difficulty.KEYS,
        by_default=True,
        forwards=1.0,
        per_training=True,
        besides="an eigendecomposition (examples x examples)",
        drawn_by_place=True,
    ),
    "calibration": Measure(calibration.calibration, calibration.KEYS, by_default=True, forwards=0.0),
    "agreement": Measure(
        agreement.agreement,
        agreement.KEYS,
        by_default=True,
        forwards=1.0,
        drawn_by_place=True,
        besides="what `reference` takes, where that was not taken",
        reads="reference",
    ),
    "reference": Measure(
        reference.reference,
        reference.KEYS,
        by_default=True,
        forwards=1.0,
        per_training=True,
        besides="ridge, trees or naive Bayes on the training samples, some 20 seconds of one core each at most",
        drawn_by_place=True,
    ),
    "copies": Measure(
        copies.copies,
        copies.KEYS,
        by_default=True,
        forwards=2.0,
        drawn_by_place=True,
        besides="what `reference` takes, where that was not taken",
        reads="reference",
    ),
    # Expensive, or defined for fewer networks: taken only where they are asked for by name.
    "path_norm": Measure(path_norm.path_norm, path_norm.KEYS, forwards=4.0, besides="its few forwards are in float64"),
    "distance": Measure(distance.distance, distance.KEYS, forwards=0.1, besides="singular values of dense layers"),
    "bartlett": Measure(bartlett.bartlett, bartlett.KEYS, forwards=0.1, besides="singular values of dense layers"),
    "complexity": Measure(
        complexity.complexity,
        complexity.KEYS,
        forwards=1.5,
        besides="singular values of the kernels and of their Fourier transforms",
    ),
    "norm_product": Measure(
        norm_product.norm_product, norm_product.KEYS, forwards=0.5, besides="singular values of the kernels"
    ),
    "k_variance": Measure(
        k_variance.k_variance,
        k_variance.KEYS,
        forwards=4.0,
        drawn_by_place=True,
        besides="a matching of about 100 x 100 per class",
    ),
    "separability": Measure(separability.separability, separability.KEYS, forwards=2.0, drawn_by_place=True),
    "gradient_noise": Measure(
        gradient_noise.gradient_noise,
        gradient_noise.KEYS,
        forwards=16.0,
        drawn_by_place=True,
        besides="every sample's gradients written out",
    ),
    "sharpness": Measure(sharpness.sharpness, sharpness.KEYS, forwards=31.0),
    "pac_bayes": Measure(pac_bayes.pac_bayes, pac_bayes.KEYS, forwards=100.0, at_most=303.0),
    "adaptive_sharpness": Measure(adaptive_sharpness.adaptive_sharpness, adaptive_sharpness.KEYS, forwards=161.0),
    "worst_case": Measure(worst_case.worst_case, worst_case.KEYS, forwards=300.0, at_most=1040.0),
    "soft_rank": Measure(soft_rank.soft_rank, soft_rank.KEYS, forwards=130.0, drawn_by_place=True, at_most=490.0),
    "full_soft_rank": Measure(
        soft_rank.full_soft_rank, soft_rank.FULL_KEYS, forwards=260.0, drawn_by_place=True, at_most=980.0
    ),
    "tic": Measure(tic.tic, tic.KEYS, forwards=100.0, drawn_by_place=True, at_most=130.0),
    "diagonal_curvature": Measure(
        diagonal_curvature.diagonal_curvature,
        diagonal_curvature.KEYS,
        forwards=28.0,
        besides="every sample's gradients written out",
    ),
    "kronecker_curvature": Measure(
        kronecker_curvature.kronecker_curvature,
        kronecker_curvature.KEYS,
        forwards=38.0,
        besides="the factors and their eigenvalues",
    ),
    "hessian": Measure(hessian.hessian, hessian.KEYS, forwards=400.0, at_most=450.0),
    "leave_one_out": Measure(
        leave_one_out.leave_one_out,
        leave_one_out.KEYS,
        forwards=1.0,
        besides="a solve with the last layer's weights, up to 6 s on one core",
    ),
    "network_leave_one_out": Measure(
        network_leave_one_out.network_leave_one_out,
        network_leave_one_out.KEYS,
        forwards=20.0,
        besides="the Gram matrix of what is differentiated sample by sample, and a solve, up to a minute on one core",
    ),
    "augmentation": Measure(augmentation.augmentation, augmentation.KEYS, forwards=10.0, drawn_by_place=True),
    "perturbed_margin": Measure(
        perturbed_margin.perturbed_margin,
        perturbed_margin.KEYS,
        forwards=5.0,
        drawn_by_place=True,
        besides="moments of the first layer's outputs in float64",
    ),
    "representation": Measure(
        representation.representation,
        representation.KEYS,
        forwards=2.0,
        besides="three eigendecompositions (examples x examples)",
    ),
    "input_difficulty": Measure(
        input_difficulty.input_difficulty,
        input_difficulty.KEYS,
        forwards=2.0,
        per_training=True,
        drawn_by_place=True,
        besides="two convolutions of the images, three eigendecompositions (examples x examples)",
    ),
    "kernel_difficulty": Measure(
        kernel_difficulty.kernel_difficulty,
        kernel_difficulty.KEYS,
        forwards=8.0,
        per_training=True,
        besides="every sample's gradient written out",
    ),
}


BY_DEFAULT = tuple(name for name, row in MEASURES.items() if row.by_default)
MEASURED: dict[str, Key] = FACTS | scalar_keys(MEASURES) | derived.KEYS


def compute(probe: Probe, names: Iterable[str]) -> Computed:
    """What the named measures give. Undefined values are absent, never NaN; reasons are kept for those asked for.

    Call inside `undisturbed(probe.model)`.

    Raises:
        MeasureError: an unknown name, where the message lists those that are known; or a measure that failed, where
            it names the measure and the cause.
        AnotherRankFailed: a measure failed on another rank.
    """
    computed = Computed()
    for name in names:
        row = get_measure(name)
        try:
            with probe.step():
                found = row.function(probe)
        except Undefined as reason:
            found = {_every_key(row): reason}
        except AnotherRankFailed:
            raise
        except Exception as error:
            raise _failed(name, error) from error
        undefined = {key: value for key, value in found.items() if isinstance(value, Undefined)}
        asked = name in probe.named
        absent = {
            key: why.reason
            for key, why in undefined.items()
            if not isinstance(why, Later) and (asked or not isinstance(why, OtherKind))
        }
        values = {key: value for key, value in found.items() if isinstance(value, float) and math.isfinite(value)}
        if found and not values and not undefined:
            absent = {_every_key(row): "its values are not finite"}
        else:
            numbers = (key for key, value in found.items() if isinstance(value, float) and key not in values)
            absent |= dict.fromkeys(numbers, "its value is not finite")
        asked_for = {key: reason for key, reason in absent.items() if _is_asked_for(key, row, probe)}
        computed.values |= values
        computed.figures |= {key: value for key, value in found.items() if isinstance(value, Histogram | Spectrum)}
        if asked_for:
            computed.absent[name] = asked_for
    return computed


def _is_asked_for(pattern: str, row: Measure, probe: Probe) -> bool:
    """Whether a figure, or a number that the probe wants, is among the keys that the pattern stands for."""
    keys = [key for key in row.keys if fnmatchcase(key, pattern)]
    return not keys or any(row.keys[key].kind != "scalar" or probe.wants(key) for key in keys)


def _every_key(row: Measure) -> str:
    """The keys of its numbers as one pattern; a single key as it is."""
    keys = [key for key, declared in row.keys.items() if declared.kind == "scalar"]
    return keys[0] if len(keys) == 1 else f"{os.path.commonprefix(keys)}*"  # noqa: RUF071


def _failed(name: str, error: Exception) -> MeasureError:
    if isinstance(error, GapError):  # it says itself what to do
        return MeasureError(f"measure {name!r}, {error.subject}", **error.parts)
    report = "Please report it if it should be defined for this model; the other measures can be taken without it."
    remedy = "Use fewer samples." if out_of_memory(error) else report
    return MeasureError(f"measure {name!r}", got=one_line(error), expected="its values", remedy=remedy)


def get_measure(name: str) -> Measure:
    """The row for `name` in the registry.

    Raises:
        MeasureError: there is none.
    """
    if name not in MEASURES:
        raise MeasureError(
            "measure", got=repr(name), expected=f"one of {', '.join(MEASURES)}", remedy=closest(name, MEASURES)
        )
    return MEASURES[name]
