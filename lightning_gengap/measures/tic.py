"""Takeuchi's information criterion: the gap in loss that gradient noise and curvature together imply."""

from __future__ import annotations

import torch

from lightning_gengap.curvature import dual_curvature
from lightning_gengap.krylov import shrinkage
from lightning_gengap.measures.soft_rank import one_run, ridge_of
from lightning_gengap.probe import Probe

_STREAM = 1  # its random signs are other than the soft rank's


def tic(probe: Probe) -> dict[str, float]:
    """Tr C (G + l)^-1 / n, with C = (1/n) sum g_i g_i^T of the samples' loss gradients and G the Gauss-Newton matrix.

    Key `curvature/tic`: an estimate of test minus train cross-entropy of a network trained on n samples, here the at
    most 512 of the probe that `curvature/samples` counts; l as for the soft rank. Unit: nats, at least 0. It tends to
    0 where the network interpolates, and then says nothing; it equals the soft rank over n where the network is
    calibrated. Not invariant to a scaling of the logits. Cost: as the soft rank's, with products of its own. Absent,
    with a note, where the model cannot be differentiated twice. Reference: Thomas et al. 2020 (arXiv 1906.07774).
    """
    curvature = probe.once(dual_curvature)
    if curvature is None:
        return {}
    generator = torch.Generator().manual_seed(probe.seed + _STREAM)
    ridge = ridge_of(probe).value
    run = one_run(curvature, curvature.signed_residuals(generator), ridge)
    return {"curvature/tic": shrinkage(run, ridge).middle / len(curvature.targets)}
