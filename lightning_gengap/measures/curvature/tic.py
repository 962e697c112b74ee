"""Takeuchi's information criterion: the gap in loss that gradient noise and curvature together imply."""

from __future__ import annotations

import torch

from lightning_gengap.derivatives.fallback import with_curvature
from lightning_gengap.derivatives.gauss_newton import Curvature
from lightning_gengap.derivatives.weight_decay import Ridge, ridge_of
from lightning_gengap.linalg.lanczos import shrinkage
from lightning_gengap.measures.curvature.soft_rank import one_run
from lightning_gengap.network.probe import Probe

_STREAM = 1  # its random signs are other than the soft rank's


def tic(probe: Probe) -> dict[str, float]:
    """Tr C (G + R)^-1 / n, with C = (1/n) sum g_i g_i^T of the samples' loss gradients and G the Gauss-Newton matrix.

    Key `curvature/tic`: an estimate of test minus train cross-entropy of a network trained on n samples, here the at
    most 512 of the probe that `curvature/tic/samples` counts (`curvature/tic/parameters`: the trained parameters); R
    as for the soft rank. Unit: nats, at least 0. It tends to 0 where the network interpolates, and then says nothing;
    it equals the soft rank over n where the network is calibrated. Not invariant to a scaling of the logits. Cost: as
    the soft rank's, with products of its own, at most 60. Absent, with a note, where the model cannot be differentiated
    twice or does not fit into memory. Reference: Thomas et al. 2020 (arXiv 1906.07774).
    """
    ridge = probe.cached(ridge_of)

    def values(curvature: Curvature) -> dict[str, float]:
        return {
            "curvature/tic": criterion(curvature, ridge, probe.seed + _STREAM),
            "curvature/tic/samples": float(len(curvature.targets)),
            "curvature/tic/parameters": float(curvature.parameters),
        }

    return with_curvature(probe, "curvature/tic", values) or {}


def criterion(curvature: Curvature, ridge: Ridge, seed: int) -> float:
    """The criterion by one random start."""
    start = curvature.signed_residuals(torch.Generator().manual_seed(seed))
    run = one_run(curvature.within(ridge.metric), start, ridge.value)
    return shrinkage(run, ridge.value).middle / len(curvature.targets)
