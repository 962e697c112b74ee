"""Soft rank of a Kronecker-factored Gauss-Newton matrix (Martens and Grosse 2015): an approximation, layer by layer."""

from __future__ import annotations

import math

from lightning_gengap.derivatives.fallback import undefined_where_it_fails
from lightning_gengap.derivatives.gauss_newton import SAMPLES
from lightning_gengap.derivatives.weights import require_gradients, trained
from lightning_gengap.errors import Undefined
from lightning_gengap.measures.curvature.diagonal_curvature import Parts, diagonal_of, ridges_of
from lightning_gengap.measures.curvature.keys import CHANGING, sizes
from lightning_gengap.measures.curvature.kronecker_factors import Layer, factored
from lightning_gengap.measures.key import INVARIANT, Key
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe

KEYS = {
    "curvature/kronecker/soft_rank": Key(
        "directions", 0, math.inf, "approximation: the soft rank by Kronecker factors (KFAC)", CHANGING
    ),
    "curvature/kronecker/share": Key(
        "fraction", 0, 1, "share of the parameters with such factors; others by their diagonal", INVARIANT
    ),
    **sizes("curvature/kronecker"),
}


def kronecker_curvature(probe: Probe) -> Values:
    """The soft rank with the Gauss-Newton matrix G replaced by one Kronecker product per layer: an approximation.

    `curvature/kronecker/soft_rank` is the sum over layers of a_i b_j / (a_i b_j + R). Here a are the eigenvalues of the
    layer's mean a a^T (inputs, a 1 appended for the bias; of a convolution the patches), and b those of the mean over
    samples of sum b b^T (derivatives of the logits by its outputs times B, B B^T = diag(p) - p p^T, summed over
    positions). This is KFAC-expand with exact output curvature: nothing is sampled. Samples (at most 512 of the probe)
    and ridge R are the soft rank's, R by its geometric mean over a layer.

    It is the exact soft rank of G's diagonal blocks, one per layer, for one sample and layers with one position. Else
    it may lie on either side of that, and even below the soft rank where a layer has many positions.

    Factors are taken of linear layers and of convolutions in the plane (one group, zero padding given in numbers),
    called as such, with at most 5000 inputs of an output. Calls of a layer count as positions. Every other trained
    parameter (norms, embeddings, attention's packed projections, tied, re-parametrised or otherwise used weights)
    enters by the exact diagonal instead.

    Other keys: `curvature/kronecker/share`, and `curvature/kronecker/samples` and `curvature/kronecker/parameters`,
    which count both kinds.

    Cost: a forward, a backward and one backward to the layers' outputs per class, some 50 forwards' worth over those
    samples at ten classes; the factors' eigenvalues; and some 20 forwards more for a diagonal of what is left.

    Raises:
        Undefined: no layer qualifies, no gradient reaches a parameter, a backward fails, or there are more than 256
            classes.

    References: Martens and Grosse 2015 (arXiv 1503.05671), Grosse and Martens 2016 (arXiv 1602.01407), Eschenhagen et
    al. 2023 (arXiv 2311.00636).
    """
    require_gradients(probe)
    with undefined_where_it_fails():
        layers = factored(probe)
    if not layers:
        raise Undefined("no linear layer or convolution is trained and called as such")
    samples, ridges = min(len(probe.targets), SAMPLES), ridges_of(probe)
    counts = {name: weight.numel() for name, weight in trained(probe).items()}
    total = sum(layer.soft_rank(samples, _mean_ridge(layer, ridges, counts)) for layer in layers)
    covered = {name for layer in layers for name in layer.names}
    rest = [name for name in counts if name not in covered]
    if rest:
        total += diagonal_of(probe, rest, "curvature/kronecker/*").soft_rank(ridges)
    parameters = sum(counts.values())
    return {
        "curvature/kronecker/soft_rank": total,
        "curvature/kronecker/share": sum(counts[name] for name in covered) / parameters,
        "curvature/kronecker/samples": float(samples),
        "curvature/kronecker/parameters": float(parameters),
    }


def _mean_ridge(layer: Layer, ridges: Parts, counts: dict[str, int]) -> float:
    """The geometric mean of the ridge over the layer's parameters."""
    logs = [(float(ridges[name].log().mean()), counts[name]) for name in layer.names]
    return math.exp(sum(log * count for log, count in logs) / sum(count for _, count in logs))
