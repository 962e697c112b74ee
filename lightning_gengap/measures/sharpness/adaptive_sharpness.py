"""Rise of the loss under weight noise proportional to the weights, in the settings of Andriushchenko et al. 2023."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_gengap.measures.norms.norm import NotFoldableError
from lightning_gengap.measures.sharpness.weight_noise import draws, noisy, proportional
from lightning_gengap.network.folding import folded
from lightning_gengap.network.probe import Probe, State

NORMAL, UNIFORM = (0.05, 0.1, 0.2, 0.4), (0.1, 0.2, 0.4, 0.8)
DRAWS = 20
FLOOR = 1e-10


def adaptive_sharpness(probe: Probe) -> dict[str, float]:
    """Expected sharpness under normal and uniform noise in proportion to every parameter, over 20 draws.

    All parameters of the folded network are perturbed, on copies, with the same draws at every measurement: normal
    noise of standard deviation r |w_i|, r in 0.05, 0.1, 0.2, 0.4, and uniform noise within +- r |w_i|, r in 0.1, 0.2,
    0.4, 0.8.

    Keys `adaptive_sharpness/<normal|uniform>_<r>`, mean rise of the loss in nats; `..._drop`, mean drop of the
    accuracy, a fraction; `..._normalized`, mean rise of the loss of normalized logits, (f - mean f) / |f - mean f| per
    example, in nats. All can be negative. No KL is paired with these: from zero it is the constant P / (2 r^2).
    All are invariant to ReLU rescaling and to rescaling before batch norm; drop and normalized rise also to a scaling
    of the last layer, the plain rise not. Absent, with one note, where a batch norm cannot be folded. Cost: 161 forward
    passes. Reference: Andriushchenko et al. 2023 (arXiv 2302.07011), who find little correlation with the gap in modern
    settings.
    """
    try:
        network = probe.cached(folded)
    except NotFoldableError as reason:
        probe.notes.append(f"adaptive_sharpness/* is absent: {reason}")
        return {}
    seeds, clean = draws(probe.seed, DRAWS), scores(logits_at(probe, network.state), probe.targets)
    grids: dict[Literal["normal", "uniform"], tuple[float, ...]] = {"normal": NORMAL, "uniform": UNIFORM}
    values: dict[str, float] = {}
    for kind, levels in grids.items():
        for rho in levels:
            states = (network.state | noisy(network.parameters, proportional(rho), seed, kind) for seed in seeds)
            drawn = [scores(logits_at(probe, state), probe.targets) for state in states]
            rises = {name: math.fsum(score[name] for score in drawn) / DRAWS - clean[name] for name in clean}
            values[f"adaptive_sharpness/{kind}_{rho}"] = rises["loss"]
            values[f"adaptive_sharpness/{kind}_{rho}_drop"] = rises["error"]
            values[f"adaptive_sharpness/{kind}_{rho}_normalized"] = rises["normalized_loss"]
    return values


@torch.no_grad()
def logits_at(probe: Probe, state: State) -> Tensor:
    """Float64 logits of all samples with `state` bound, on the CPU; one forward; shape (examples, classes)."""
    parts = [probe.logits_on(batch.content, len(batch.targets), state).cpu() for batch in probe.batches]
    return torch.cat(parts).double()


def scores(logits: Tensor, targets: Tensor) -> Mapping[str, float]:
    """Mean cross-entropy of logits and of normalized logits in nats, and the share that is misclassified."""
    return {
        "loss": float(cross_entropy(logits, targets)),
        "normalized_loss": float(cross_entropy(normalized(logits), targets)),
        "error": float((logits.argmax(1) != targets).double().mean()),
    }


def normalized(logits: Tensor) -> Tensor:
    """Logits minus their mean, over the Euclidean norm of that, per example."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp(min=FLOOR)
