"""Approximate leave-one-out of all trained weights, from the explicit Jacobian of as many samples as fit."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gengap.derivatives.fallback import undefined_where_it_fails, undefined_without_memory
from lightning_gengap.derivatives.gauss_newton import jacobian_of
from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.derivatives.time import require_time
from lightning_gengap.derivatives.weight_decay import Ridge, ridge_of
from lightning_gengap.derivatives.weights import trained
from lightning_gengap.errors import Undefined
from lightning_gengap.linalg.left_out import left_out, leverage_bytes, leverage_multiplications
from lightning_gengap.linalg.leverage import GRAM_BLOCK, Blocks, dual_blocks, gram_of, weight_blocks
from lightning_gengap.measures.curvature.keys import CHANGING
from lightning_gengap.measures.curvature.leave_one_out import gap_keys, gaps
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe

DENSE_JACOBIAN = 2**28  # samples x classes x parameters of the whole network: 1 GiB in float32
DENSE_SIDE = 5000  # the smaller of samples x classes and parameters: four matrices of 200 MiB
FEWEST = 20

KEYS = gap_keys("loo/network", "all weights", CHANGING)


@undefined_without_memory()
def network_leave_one_out(probe: Probe) -> Values:
    """Leave-one-out gaps of all trained weights, from the Jacobian of as many samples as fit into memory.

    See `leave_one_out` for the step. The number n of samples that stand for the training set is part of the value, as
    it is for the soft rank: fewer samples have more leverage each, and a larger gap. With ten classes they are all
    1,024 up to 5,000 parameters, 500 up to 53 thousand, and 98 of ResNet-20; what is explicit takes some 2 GiB.

    Keys: `loo/network/accuracy_gap`, `loo/network/loss_gap` and `loo/network/leverage`, as for the last layer;
    `loo/network/samples`, n.

    Cost: classes backwards over those samples, half of (n x classes)^2 x parameters multiplications, and a solve. For
    1,024 samples that is up to a minute on one core, the most at 50 thousand parameters. Reference: Nickl et al. 2023
    (arXiv 2310.19273), with the leverage correction.

    Raises:
        Undefined: fewer than 20 samples fit into memory (with ten classes, above 1.3 million parameters), or the model
            cannot be differentiated.
    """
    parameters = sum(weight.numel() for weight in trained(probe).values())
    with torch.no_grad():
        logits = probe.logits_on(probe.batches[0].content, len(probe.batches[0].targets))
    classes, size = logits.shape[1], logits.element_size()
    count = min(len(probe.targets), affordable(parameters, classes))
    if count < FEWEST:
        raise Undefined(f"{parameters} trained parameters, {count} samples fit into memory")
    rows = count * classes
    matrices = 4 * min(rows, parameters) ** 2 + GRAM_BLOCK
    wanted = size * rows * parameters + 8 * matrices + leverage_bytes(count, classes)
    require_room(wanted, f"the derivatives of {count} samples")
    require_time(leverage_multiplications(count, classes), f"the leverages of {count} samples and {classes} classes")
    with undefined_where_it_fails():
        jacobian, logits, targets = jacobian_of(probe, count)
    ridge = probe.cached(ridge_of)
    jacobian, probabilities = in_metric(jacobian, probe, ridge), logits.softmax(dim=1)
    if parameters < len(jacobian):
        blocks: Blocks = weight_blocks(jacobian, probabilities, ridge.value)
    else:
        gram = gram_of(jacobian)
        del jacobian  # before the solve
        blocks = dual_blocks(gram, probabilities, ridge.value)
    return gaps("loo/network", logits, left_out(logits, targets, blocks), targets)


def in_metric(jacobian: Tensor, probe: Probe, ridge: Ridge) -> Tensor:
    """J D^-1/2 in place: with it, G and a uniform ridge stand for G and the ridge R = value x D."""
    if ridge.metric is not None:
        start = 0
        for weight, by in zip(trained(probe).values(), ridge.metric, strict=True):
            stop = start + weight.numel()
            jacobian[:, start:stop] /= by.expand(weight.shape).flatten().sqrt().to(jacobian)
            start = stop
    return jacobian


def affordable(parameters: int, classes: int) -> int:
    """The largest number of samples whose explicit Jacobian, and the matrices of its smaller side, fit into memory."""
    rows = DENSE_JACOBIAN // parameters
    return (rows if parameters <= DENSE_SIDE else min(rows, DENSE_SIDE)) // classes
