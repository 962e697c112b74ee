"""Soft rank of the curvature: how many directions the data determine against the weight decay (Shoham 2025)."""

from __future__ import annotations

import math

from lightning_gengap.derivatives.gauss_newton import Curvature, whole, with_curvature
from lightning_gengap.derivatives.jacobian import METHODS
from lightning_gengap.derivatives.weight_decay import ASSUMED_RIDGE, Ridge, ridge_of
from lightning_gengap.measures.curvature.keys import CHANGING, CURVATURE_UNIT
from lightning_gengap.measures.curvature.lanczos_runs import LanczosRuns, estimated
from lightning_gengap.measures.key import INVARIANT, NOTHING, Key
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe

RIDGES = {"1e-5": 1e-5, "1e-4": 1e-4, "1e-3": 1e-3, "1e-2": 1e-2, "1e-1": 1e-1}
LARGEST = 3  # eigenvalues that are shown


def _shared_keys(prefix: str, of: str = "") -> dict[str, Key]:
    """What `soft_rank` and `full_soft_rank` both give; `of` says which samples the curvature is of."""
    ranks = {
        "soft_rank": "Gauss-Newton directions that outweigh the ridge curvature/lambda",
        "soft_rank_lower": "lower end of the bracket of the random start's exact form",
        "soft_rank_upper": "upper end of that bracket",
        **{f"soft_rank_{ridge}": f"soft rank at ridge {ridge}, from the same run" for ridge in RIDGES},
    }
    samples = "samples that the curvature is of; the soft rank grows with them"
    trace = "trace of the Gauss-Newton matrix, by the same start"
    products = "products with the curvature that were needed"
    return {
        **{
            f"{prefix}{name}": Key("directions", 0, math.inf, f"{words}{of}", CHANGING) for name, words in ranks.items()
        },
        f"{prefix}samples": Key("samples", 0, math.inf, f"{samples}{of}", INVARIANT),
        f"{prefix}parameters": Key("parameters", 0, math.inf, "trained parameters", INVARIANT),
        f"{prefix}trace": Key(CURVATURE_UNIT, 0, math.inf, f"{trace}{of}", CHANGING),
        f"{prefix}products": Key("products", 0, math.inf, f"{products}{of}", NOTHING),
    }


KEYS = {
    **_shared_keys("curvature/"),
    "curvature/lambda": Key(
        "ridge", 0, math.inf, "weight decay on the mean loss, its geometric mean, or its assumed value", INVARIANT
    ),
    "curvature/lambda_assumed": Key(
        "0 or 1", 0, 1, "1: the weight decay is unknown or zero, and the ridge an assumption", INVARIANT
    ),
    "curvature/lambda_varies": Key(
        "0 or 1", 0, 1, "1: the ridge differs between parameters, by group or by AdamW's metric", INVARIANT
    ),
    **{
        f"curvature/top_eigenvalue{suffix}": Key(
            CURVATURE_UNIT, 0, math.inf, f"its {rank} eigenvalue, from below", CHANGING
        )
        for suffix, rank in {"": "largest", "_2": "second largest", "_3": "third largest"}.items()
    },
    "curvature/rung": Key(
        "1 to 3", 0, 3, "1 linearisation, 2 double backward, 3 graphs rebuilt for every product", NOTHING
    ),
    "curvature/spectrum": Key(
        "directions",
        0,
        math.inf,
        "eigenvalues of the Gauss-Newton matrix, and how many directions each stands for",
        CHANGING,
        kind="spectrum",
    ),
}
FULL_KEYS = _shared_keys("curvature/full/", "; on all samples of the probe")


def soft_rank(probe: Probe) -> Values:
    """The soft rank Tr G (G + R)^-1: how many directions of the weights the samples determine against the weight decay.

    G is the Gauss-Newton matrix of the mean cross-entropy and R the ridge that the optimizer puts on the weights, see
    `decay_of`. For a uniform R = l the rank is the sum of g_i / (g_i + l) over the eigenvalues g_i of G. It lies in
    [0, min(parameters, samples x (classes - 1))]. Divided by the samples it is a gap in loss, in nats, for a calibrated
    model. It grows with the number of samples, at most 512 of the probe: compare only values with equal
    `curvature/samples`.

    Keys at R: `curvature/soft_rank`; `curvature/soft_rank_lower` and `..._upper`, a bracket of the random start's
    exact form by Gauss-Radau and Gauss. The value has the geometric mean of their odds, what they are over what they
    lack to the maximum. The start itself spreads by 1 to 4 % about the trace, which the bracket does not show.

    Keys of R: `curvature/lambda`, R or its geometric mean over the trained parameters; `curvature/lambda_varies`;
    `curvature/lambda_assumed`, 1 where the decay is unknown or zero and 1e-3 is taken.

    Keys at uniform ridges, whatever R is: `curvature/soft_rank_1e-5` to `..._1e-1`; `curvature/trace`, of G, by the
    same start; `curvature/top_eigenvalue`, `..._2` and `..._3`, from below; `curvature/spectrum`, to be drawn.

    Other keys: `curvature/samples`, `curvature/parameters`, `curvature/products` and `curvature/rung`.

    Cost: at most 60 products of about four forwards over those samples. Below 100 directions there are at least two
    starts, with at most 120 products. Where R varies, it is twice that.

    Raises:
        Undefined: the model cannot be differentiated twice, or not even one sample fits into memory.

    Reference: Shoham et al. 2025 (arXiv 2506.17809).
    """
    ridge = probe.cached(ridge_of)

    def values(curvature: Curvature) -> Values:
        found, plain = _at_ridges(curvature, ridge, probe.seed, "curvature/")
        largest = plain.largest(LARGEST)
        return {
            **found,
            "curvature/lambda": ridge.value,
            "curvature/lambda_assumed": float(ridge.assumed),
            "curvature/lambda_varies": float(ridge.metric is not None),
            "curvature/top_eigenvalue": largest[0] if largest else 0.0,
            **{f"curvature/top_eigenvalue_{rank}": value for rank, value in enumerate(largest[1:], start=2)},
            "curvature/rung": float(1 + list(METHODS).index(curvature.method)),
            "curvature/spectrum": plain.density(),
        }

    return with_curvature(probe, values)


def full_soft_rank(probe: Probe) -> Values:
    """The soft rank on all samples of the probe, for the end of training: nearer to that of the training set.

    Keys, as for `soft_rank`, whose ridge it shares: `curvature/full/soft_rank`, `..._lower`, `..._upper`, `..._1e-5`
    to `..._1e-1`, `curvature/full/trace`, `curvature/full/samples`, `curvature/full/parameters` and
    `curvature/full/products`.

    Cost: as for `soft_rank`, with products over all samples of the probe. Reference: Shoham et al. 2025 (arXiv
    2506.17809).

    Raises:
        Undefined: as for `soft_rank`.
    """
    ridge = probe.cached(ridge_of)
    return with_curvature(probe, lambda found: _at_ridges(found, ridge, probe.seed, "curvature/full/")[0], whole)


def _at_ridges(curvature: Curvature, ridge: Ridge, seed: int, prefix: str) -> tuple[dict[str, float], LanczosRuns]:
    """The values of `_shared_keys`, and the runs in the plain metric, from which every uniform ridge is read."""
    plain = estimated(curvature, ridge.value if ridge.metric is None else ASSUMED_RIDGE, seed)
    headline = plain if ridge.metric is None else estimated(curvature.within(ridge.metric), ridge.value, seed)
    bracket = headline.soft_rank(ridge.value)
    runs = plain.runs if headline is plain else plain.runs + headline.runs
    found = {
        f"{prefix}soft_rank": bracket.middle,
        f"{prefix}soft_rank_lower": bracket.lower,
        f"{prefix}soft_rank_upper": bracket.upper,
        **{f"{prefix}soft_rank_{name}": plain.soft_rank(value).middle for name, value in RIDGES.items()},
        f"{prefix}samples": float(len(curvature.targets)),
        f"{prefix}parameters": float(curvature.parameters),
        f"{prefix}trace": plain.trace,
        f"{prefix}products": float(sum(map(len, runs))),
    }
    return found, plain
