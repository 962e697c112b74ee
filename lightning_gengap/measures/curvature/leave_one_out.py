"""Approximate leave-one-out of the last layer: each sample's logits had it not been trained on, to second order."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, nll_loss

from lightning_gengap.derivatives.fallback import undefined_without_memory
from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.derivatives.time import of_eigenvalues, require_time
from lightning_gengap.linalg.left_out import LeftOut, left_out, leverage_bytes, leverage_multiplications
from lightning_gengap.linalg.leverage import Blocks, dense_blocks, few_blocks, kronecker_blocks
from lightning_gengap.measures.curvature.last_layer import last_layer, layer_ridge
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

    It is the layer's trained weights that count: its weight, its bias or both. A layer that does anything but apply
    them (normalised, masked or low-rank weights, other parameters, hooks, another use of the weights) has no value.

    Cost: one forward and a solve with the layer's weights, which grows with their cube. On one core, for 1,024
    samples, it takes 0.4 s at 1,500 weights, and 6 s and 0.6 GB at 5,130, the last layer of ResNet-18. Where samples
    x classes are below half the weights, the solve is with those instead (1 s for 256 samples and ten classes). With
    many classes it grows with samples x classes^3, to half a minute at 400 classes. What would take more than a minute
    is absent: 1,024 samples of more than 520 classes, 150 of 1,000. Memory: that of the features, of some matrices of
    the layer's weights where G is exact, and some 100 MiB for the leverages of a few samples at a time.

    Raises:
        Undefined: the logits are not the output of a trained linear layer, or memory or time do not suffice.

    Reference: Nickl et al. 2023 (arXiv 2310.19273), with the leverage correction.
    """
    layer = last_layer(probe)
    ridge = layer_ridge(probe, layer)
    (samples, inputs), classes = layer.features.shape, layer.logits.shape[1]
    weights = inputs * classes
    exact = weights <= DENSE_WEIGHTS
    probabilities = layer.logits.softmax(dim=1)
    require_room(needed(samples, inputs, classes), f"the leverages of {weights} weights")
    require_time(multiplications(samples, inputs, classes), f"the leverages of {samples} samples and {classes} classes")
    if exact and 2 * layer.logits.numel() <= weights:
        blocks: Blocks = few_blocks(layer.features, probabilities, ridge)
    elif exact:
        blocks = dense_blocks(layer.features, probabilities, ridge)
    else:
        blocks = kronecker_blocks(layer.features, probabilities, ridge)
    return {
        **gaps("loo/last_layer", layer.logits, left_out(layer.logits, probe.targets, blocks), probe.targets),
        "loo/last_layer/exact": float(exact),
    }


def needed(samples: int, inputs: int, classes: int) -> int:
    """An estimate from above of the bytes that the leverages of a linear layer take; its features are counted apart."""
    together = leverage_bytes(samples, classes)
    if 2 * samples <= inputs and inputs * classes <= DENSE_WEIGHTS:
        return 8 * 6 * (samples * classes) ** 2 + together
    if inputs * classes <= DENSE_WEIGHTS:
        return 8 * 4 * (inputs * classes) ** 2 + together
    return 8 * (3 * samples * (inputs + classes) + 6 * min(samples, inputs) ** 2 + 6 * classes**2) + together


def multiplications(samples: int, inputs: int, classes: int) -> float:
    """As many take as long as the leverages of a linear layer."""
    together, weights = leverage_multiplications(samples, classes), inputs * classes
    if weights <= DENSE_WEIGHTS:
        return min(of_eigenvalues(samples * classes), weights**3 / 2 + samples * weights**2) + together
    return of_eigenvalues(min(samples, inputs)) + of_eigenvalues(classes) + together


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
