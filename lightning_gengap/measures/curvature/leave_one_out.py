"""Approximate leave-one-out of the last layer: each sample's logits had it not been trained on, to second order."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, nll_loss

from lightning_gengap.derivatives.fallback import undefined_without_memory
from lightning_gengap.derivatives.weight_decay import ridge_of
from lightning_gengap.derivatives.weights import trained
from lightning_gengap.errors import Undefined
from lightning_gengap.linalg.leverage import (
    LeftOut,
    dense_blocks,
    few_blocks,
    kronecker_blocks,
    left_out,
    output_curvature,
)
from lightning_gengap.measures.key import INVARIANT, NO, NOTHING, YES, Invariances, Key
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe

DENSE_WEIGHTS = 5200  # of the last layer; above, its curvature is taken as a Kronecker product
NEAR_ONE = 0.99
SMALLEST_PROBABILITY = 1e-10


def gap_keys(prefix: str, whose: str, loss_gap: Invariances) -> dict[str, Key]:
    """The keys that leave-one-out has for any set of weights."""
    gap = f"approximate leave-one-out gap of {whose}"
    return {
        f"{prefix}/accuracy_gap": Key("fraction", -1, 1, f"{gap}, train minus left out", NOTHING),
        f"{prefix}/loss_gap": Key("nats", -math.inf, math.inf, f"{gap}, left out minus train", loss_gap),
        f"{prefix}/leverage": Key("fraction", 0, 1, "share of samples whose leverage exceeds 0.99", NOTHING),
        f"{prefix}/samples": Key("samples", 1, math.inf, "samples that stand for the training set", INVARIANT),
    }


KEYS = {
    **gap_keys("loo/last_layer", "the last layer's weights", Invariances(NO, NO, YES)),
    "loo/last_layer/exact": Key(
        "0 or 1", 0, 1, "1: by the dense curvature of the layer; 0: by its Kronecker approximation", INVARIANT
    ),
}


class LastLayer(NamedTuple):
    """What enters the final linear layer and what leaves it, float64, on the CPU.

    Attributes:
        features: shape (samples, inputs), a 1 appended where the layer has a bias.
        logits: shape (samples, classes).
        parameters: names of the layer's weight and, where it has one, bias.
    """

    features: Tensor
    logits: Tensor
    parameters: tuple[str, ...]


@undefined_without_memory()
def leave_one_out(probe: Probe) -> Values:
    """Leave-one-out gaps of the last layer's weights, all others held, by one Newton step with exact leverage.

    The logits without sample i are f_i + Q_i (I - Lambda_i Q_i)^-1 (p_i - y_i), with the leverage Q_i = (1/n) J_i (G +
    R)^-1 J_i^T. G is the Gauss-Newton matrix of the mean cross-entropy on the probe's n samples, and R the ridge of
    `soft_rank`. The features were fitted to the sample too, so that the gap is a lower bound in spirit; away from a
    minimum it is only a sensitivity.

    Keys under `loo/last_layer/`: `accuracy_gap`; `loss_gap`, of probabilities of at least 1e-10; `leverage`, the share
    of samples with a leverage above 0.99, where the step is not to be trusted; `samples`, n; and `exact`, 0 where G is
    taken by its Kronecker approximation, for layers of more than 5200 weights, and a ridge that varies by the nearest
    product of one factor per input and class.

    The approximation is poor: on fitted softmax regressions with 6,410 weights and n = 1024 whose loss and accuracy
    gaps were 0.32 / 0.14 and, with a fifth of the labels wrong, 2.01 / 0.51, it gave 0.69 / 0.08 and 0.96 / 0.13 where
    the exact form gave 0.33 / 0.14 and 1.94 / 0.53.

    Cost: one forward and a solve with the layer's weights, which grows with their cube. On one core, for 1,024
    samples, it takes 0.4 s at 1,500 weights, and 6 s and 0.6 GB at 5,130, the last layer of ResNet-18. Where samples
    x classes are below half the weights, the solve is with those instead (1 s for 256 samples and ten classes).

    Raises:
        Undefined: the logits are not the output of a trained linear layer, or memory does not suffice.

    Reference: Nickl et al. 2023 (arXiv 2310.19273), with the leverage correction.
    """
    layer = last_layer(probe)
    ridge = layer_ridge(probe, layer)
    weights = layer.features.shape[1] * layer.logits.shape[1]
    exact = weights <= DENSE_WEIGHTS
    probabilities = layer.logits.softmax(dim=1)
    if exact and 2 * layer.logits.numel() <= weights:
        blocks = few_blocks(layer.features, probabilities, ridge)
    else:
        form = dense_blocks if exact else kronecker_blocks
        blocks = form(layer.features, output_curvature(probabilities), ridge)
    return {
        **gaps("loo/last_layer", layer.logits, left_out(layer.logits, probe.targets, blocks), probe.targets),
        "loo/last_layer/exact": float(exact),
    }


def last_layer(probe: Probe) -> LastLayer:
    """Inputs and outputs of the last linear layer that the forward calls.

    Raises:
        Undefined: there is none, it is frozen, or its outputs are not the logits.
    """
    ran = [met for met in probe.layout.called if isinstance(probe.modules[met.module], nn.Linear)]
    module = probe.modules[ran[-1].module] if ran else None
    if not isinstance(module, nn.Linear) or ran[-1].calls != 1:
        raise Undefined("no linear layer is called once at the end of the forward")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise Undefined(f"{ran[-1].module!r} is frozen")
    features, logits = _entering_and_leaving(probe, module, ran[-1].module)
    if module.bias is not None:
        features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    names = {id(parameter): name for name, parameter in probe.model.named_parameters()}
    own = (module.weight,) if module.bias is None else (module.weight, module.bias)
    return LastLayer(features, logits, tuple(names.get(id(parameter), "") for parameter in own))


def _entering_and_leaving(probe: Probe, module: nn.Linear, name: str) -> tuple[Tensor, Tensor]:
    """What enters the layer for all samples, and the logits."""
    seen: list[tuple[Tensor, Tensor]] = []
    features, logits = [], []
    handle = module.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    try:
        with torch.no_grad():
            for _, found in probe.forwards():
                entering, leaving = seen[-1]
                seen.clear()
                if leaving.shape != found.shape or not torch.equal(leaving.to(found.dtype), found):
                    raise Undefined(f"{name!r} does not yield the logits")
                features.append(entering.detach().cpu().double())
                logits.append(found.cpu().double())
    finally:
        handle.remove()
    return torch.cat(features), torch.cat(logits)


def layer_ridge(probe: Probe, layer: LastLayer) -> float | Tensor:
    """The ridge on the layer's weights; shape (classes, inputs), a column for the bias, where it varies.

    A weight that is no trained parameter, frozen or computed from others, has the network's geometric mean.
    """
    ridge = probe.cached(ridge_of)
    if ridge.metric is None:
        return ridge.value
    classes, inputs = layer.logits.shape[1], layer.features.shape[1]
    by_name = dict(zip(trained(probe), ridge.metric, strict=True))
    widths = (inputs,) if len(layer.parameters) == 1 else (inputs - 1, 1)
    parts = []
    for name, width in zip(layer.parameters, widths, strict=True):
        relative = by_name.get(name, torch.ones(())).cpu().double()
        parts.append(relative.reshape(classes, width) if relative.ndim else relative.expand(classes, width))
    found = ridge.value * torch.cat(parts, dim=1)
    return float(found[0, 0]) if bool((found == found[0, 0]).all()) else found


def gaps(prefix: str, logits: Tensor, left: LeftOut, targets: Tensor) -> dict[str, float]:
    """The values of `gap_keys`: what is lost where each sample's logits are as if it had been left out."""

    def loss(of: Tensor) -> float:
        floor = torch.log(torch.tensor(SMALLEST_PROBABILITY, dtype=of.dtype))
        return float(nll_loss(log_softmax(of, dim=1).clamp(min=floor), targets))

    def accuracy(of: Tensor) -> float:
        return float((of.argmax(1) == targets).double().mean())

    return {
        f"{prefix}/accuracy_gap": accuracy(logits) - accuracy(left.logits),
        f"{prefix}/loss_gap": loss(left.logits) - loss(logits),
        f"{prefix}/leverage": float((left.leverage > NEAR_ONE).double().mean()),
        f"{prefix}/samples": float(len(targets)),
    }
