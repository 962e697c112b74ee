"""Rise of the loss under weight noise proportional to the weights, in the settings of Andriushchenko et al. 2023."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_gengap.measures.key import FUNCTION, INVARIANT, Key
from lightning_gengap.measures.sharpness.weight_noise import Kind, draws, proportional, states_under_noise
from lightning_gengap.measures.values import Values
from lightning_gengap.network.folding import folded
from lightning_gengap.network.probe import Probe, State

LEVELS: dict[Kind, tuple[float, ...]] = {"normal": (0.05, 0.1, 0.2, 0.4), "uniform": (0.1, 0.2, 0.4, 0.8)}
DRAWS = 20
FLOOR = 1e-10


def _keys() -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for kind, rho in ((kind, rho) for kind, levels in LEVELS.items() for rho in levels):
        key, noise = f"adaptive_sharpness/{kind}_{rho}", f"under {kind} weight noise {rho} |w|"
        rise = f"rise of the loss {noise}"
        keys[key] = Key("nats", -math.inf, math.inf, rise, FUNCTION)
        keys[f"{key}_normalized"] = Key("nats", -3, 3, f"{rise}, logits normalized", INVARIANT)
        keys[f"{key}_drop"] = Key("fraction", -1, 1, f"drop of the accuracy {noise}", INVARIANT)
    return keys


KEYS = _keys()


def adaptive_sharpness(probe: Probe) -> Values:
    """Expected sharpness under normal and uniform noise in proportion to every parameter, over 20 draws.

    Noise is put on all parameters of the folded network, on copies, with the same draws at every measurement. Normal
    noise has the standard deviation r |w_i|, r in 0.05, 0.1, 0.2, 0.4; uniform noise lies within +- r |w_i|, r in 0.1,
    0.2, 0.4, 0.8.

    Keys: `adaptive_sharpness/<normal|uniform>_<r>` is the mean rise of the loss, and `..._drop` the mean drop of the
    accuracy. `..._normalized` is the mean rise of the loss of normalized logits, (f - mean f) / |f - mean f| per
    example. No KL is paired with these: from zero it is the constant P / (2 r^2).

    Cost: 161 forward passes.

    Raises:
        Undefined: a batch norm cannot be folded.

    Reference: Andriushchenko et al. 2023 (arXiv 2302.07011), who find little correlation with the gap in modern
    settings.
    """
    network = probe.cached(folded)
    seeds, clean = draws(probe.seed, DRAWS), scores(logits_at(probe, network.state), probe.targets)
    values: dict[str, float] = {}
    for kind, levels in LEVELS.items():
        for rho in levels:
            states = states_under_noise(network, proportional(rho), seeds, kind)
            drawn = [scores(logits_at(probe, state), probe.targets) for state in states]
            rises = {name: math.fsum(score[name] for score in drawn) / DRAWS - clean[name] for name in clean}
            values[f"adaptive_sharpness/{kind}_{rho}"] = rises["loss"]
            values[f"adaptive_sharpness/{kind}_{rho}_drop"] = rises["error"]
            values[f"adaptive_sharpness/{kind}_{rho}_normalized"] = rises["normalized_loss"]
    return values


@torch.no_grad()
def logits_at(probe: Probe, state: State) -> Tensor:
    """Float64 logits of all samples with `state` bound, on the CPU; one forward; shape (examples, classes)."""
    return probe.all_logits(state)


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
