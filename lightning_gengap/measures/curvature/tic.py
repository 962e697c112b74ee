"""Takeuchi's information criterion: the gap in loss that gradient noise and curvature together imply."""

from __future__ import annotations

import math

import torch

from lightning_gengap.derivatives.gauss_newton import Curvature, with_curvature
from lightning_gengap.derivatives.weight_decay import Ridge, ridge_of
from lightning_gengap.linalg.lanczos import shrinkage
from lightning_gengap.measures.curvature.keys import CHANGING, sizes
from lightning_gengap.measures.curvature.lanczos_runs import one_run
from lightning_gengap.measures.key import Key
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe

KEYS = {
    "curvature/tic": Key("nats", 0, math.inf, "Takeuchi's information criterion per sample", CHANGING),
    **sizes("curvature/tic"),
}
_STREAM = 1  # its random signs are other than the soft rank's


def tic(probe: Probe) -> Values:
    """Takeuchi's information criterion, Tr C (G + R)^-1 / n, of the trained parameters.

    C = (1/n) sum g_i g_i^T is the covariance of the samples' loss gradients g_i, and G the Gauss-Newton matrix. The
    ridge R is that of `soft_rank`. The criterion estimates test minus train cross-entropy of a network that was trained
    on n samples; n is at most 512 samples of the probe here. It equals the soft rank over n where the network is
    calibrated. It tends to 0 where the network interpolates, and says nothing then.

    Keys: `curvature/tic`, `curvature/tic/samples` and `curvature/tic/parameters`.

    Cost: at most 60 products, as for `soft_rank`.

    Raises:
        Undefined: the model cannot be differentiated twice, or not even one sample fits into memory.

    Reference: Thomas et al., "On the interplay between noise and curvature", 2020 (arXiv 1906.07774).
    """
    ridge = probe.cached(ridge_of)

    def values(curvature: Curvature) -> Values:
        return {
            "curvature/tic": criterion(curvature, ridge, probe.seed + _STREAM),
            "curvature/tic/samples": float(len(curvature.targets)),
            "curvature/tic/parameters": float(curvature.parameters),
        }

    return with_curvature(probe, values)


def criterion(curvature: Curvature, ridge: Ridge, seed: int) -> float:
    """The criterion by one random start, in nats."""
    start = curvature.signed_residuals(torch.Generator().manual_seed(seed))
    run = one_run(curvature.within(ridge.metric), start, ridge.value)
    return shrinkage(run, ridge.value).middle / len(curvature.targets)
