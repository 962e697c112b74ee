"""Approximate leave-one-out: each sample's logits had it not been trained on, to second order of the loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, nll_loss

from lightning_gengap.derivatives.fallback import unless_out_of_memory
from lightning_gengap.derivatives.gauss_newton import jacobian_of, trained
from lightning_gengap.derivatives.memory import room_for
from lightning_gengap.derivatives.weight_decay import Ridge, ridge_of
from lightning_gengap.errors import one_line
from lightning_gengap.linalg.leverage import (
    LeftOut,
    dense_blocks,
    dual_blocks,
    few_blocks,
    gram_of,
    kronecker_blocks,
    left_out,
    output_curvature,
    weight_blocks,
)
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.trace import clean_name

DENSE_WEIGHTS = 5200  # of the last layer; above, its curvature is taken as a Kronecker product
DENSE_JACOBIAN = 2**28  # samples x classes x parameters of the whole network: 1 GiB in float32
DENSE_SIDE = 5000  # the smaller of samples x classes and parameters: four matrices of 200 MiB
FEWEST = 20
NEAR_ONE = 0.99
SMALLEST_PROBABILITY = 1e-10


class LastLayer(NamedTuple):
    """What enters the final linear layer and what leaves it, float64, on the CPU.

    Attributes:
        features: shape (samples, inputs), a 1 appended where the layer has a bias.
        logits: shape (samples, classes).
        parameters: names of the layer's weight and, where it has one, bias.
    """

    features: Tensor
    logits: Tensor
    parameters: tuple[str, ...] = ()


def leave_one_out(probe: Probe) -> dict[str, float]:
    """Leave-one-out gaps of the last layer's weights, all others held, by one Newton step with exact leverage.

    f_i without i = f_i + Q_i (I - Lambda_i Q_i)^-1 (p_i - y_i), Q_i = (1/n) J_i (G + R)^-1 J_i^T, with G the
    Gauss-Newton matrix of the mean cross-entropy on the probe's n samples, and R as for the soft rank. Keys:
    `loo/last_layer/accuracy_gap` (fraction, train minus left out), `loo/last_layer/loss_gap` (nats, left out minus
    train, probabilities at least 1e-10), `loo/last_layer/leverage` (share of samples whose leverage exceeds 0.99:
    there the step is not to be trusted), `loo/last_layer/samples` (n) and `loo/last_layer/exact` (0: G by its
    Kronecker approximation, for layers of more than 5200 weights, and a ridge that varies by the nearest product of
    one factor per input and class).

    The approximation is poor: on fitted softmax regressions with 6,410 weights and n = 1024 whose loss and accuracy
    gaps were 0.32 / 0.14 and, with a fifth of the labels wrong, 2.01 / 0.51, it gave 0.69 / 0.08 and 0.96 / 0.13 where
    the exact form gave 0.33 / 0.14 and 1.94 / 0.53.

    The features were fitted to the sample too, so that this is a lower bound in spirit, and away from a minimum only
    a sensitivity. Invariant to rescaling before a batch norm. Absent, with a note, where the logits are not the
    output of a trained linear layer. Cost: one forward and a solve with the layer's weights, which grows with their
    cube: on one core 0.4 s at 1,500 weights, 6 s and 0.6 GB at 5,130, the last layer of ResNet-18, for 1,024
    samples; for samples x classes below half the weights one with those instead (1 s for 256 samples and ten classes).
    Reference: Nickl et al. 2023 (arXiv 2310.19273), with the leverage correction.
    """
    return unless_out_of_memory(probe, "loo/last_layer/*", lambda: _last_layer_values(probe)) or {}


def _last_layer_values(probe: Probe) -> dict[str, float]:
    layer = last_layer(probe)
    if layer is None:
        return {}
    ridge = layer_ridge(probe, layer)
    weights = layer.features.shape[1] * layer.logits.shape[1]
    exact = weights <= DENSE_WEIGHTS
    probabilities = layer.logits.softmax(dim=1)
    if exact and 2 * layer.logits.numel() <= weights:
        blocks = few_blocks(layer.features, probabilities, ridge)
    else:
        form = dense_blocks if exact else kronecker_blocks
        blocks = form(layer.features, output_curvature(probabilities), ridge)
    gaps = _gaps("last_layer", layer.logits, left_out(layer.logits, probe.targets, blocks), probe.targets)
    return gaps | {"loo/last_layer/exact": float(exact), "loo/last_layer/samples": float(len(probe.targets))}


def network_leave_one_out(probe: Probe) -> dict[str, float]:
    """The same with respect to all trained parameters, from the Jacobian of as many samples as fit into memory.

    Keys `loo/network/accuracy_gap`, `loo/network/loss_gap`, `loo/network/leverage` and `loo/network/samples`: the
    number n of samples that stand for the training set. It is part of the value, as it is for the soft rank: fewer
    samples have more leverage each, and a larger gap. With ten classes all 1,024 up to 5,000 parameters, 500 up to
    53 thousand, 98 of ResNet-20; what is explicit takes some 2 GiB. Cost: classes backwards over those samples, half
    of (n x classes)^2 x parameters multiplications and a solve, for 1,024 samples up to a minute on one core, the most
    at 50 thousand parameters. Absent, with a note, where fewer than 20 samples fit: with ten classes above 1.3 million
    parameters.
    """
    return unless_out_of_memory(probe, "loo/network/*", lambda: _network_values(probe)) or {}


def _network_values(probe: Probe) -> dict[str, float]:
    parameters = sum(weight.numel() for weight in trained(probe)[1])
    with torch.no_grad():
        classes = probe.logits_on(probe.batches[0].content, len(probe.batches[0].targets)).shape[1]
    count = min(len(probe.targets), affordable(parameters, classes))
    if count < FEWEST or not parameters:
        probe.notes.append(f"loo/network/* is absent: {parameters} trained parameters, {count} samples fit into memory")
        return {}
    rows = count * classes
    if not room_for(4 * rows * parameters + 4 * 8 * min(rows, parameters) ** 2):
        probe.notes.append(f"loo/network/* is absent: the Jacobian of {count} samples would not fit into memory")
        return {}
    try:
        jacobian, logits, targets = jacobian_of(probe, count)
    except Exception as error:
        probe.notes.append(f"loo/network/* is absent: {one_line(error)}")
        return {}
    ridge = probe.cached(ridge_of)
    jacobian, probabilities = in_metric(jacobian, probe, ridge), logits.softmax(dim=1)
    if parameters < len(jacobian):
        blocks = weight_blocks(jacobian, probabilities, ridge.value)
    else:
        gram = gram_of(jacobian)
        del jacobian  # before the solve
        blocks = dual_blocks(gram, probabilities, ridge.value)
    values = _gaps("network", logits, left_out(logits, targets, blocks), targets)
    return values | {"loo/network/samples": float(count)}


def in_metric(jacobian: Tensor, probe: Probe, ridge: Ridge) -> Tensor:
    """J D^-1/2 in place: with it, G and a uniform ridge stand for G and the ridge R = value x D."""
    if ridge.metric is not None:
        start = 0
        for weight, by in zip(trained(probe)[1], ridge.metric, strict=True):
            stop = start + weight.numel()
            jacobian[:, start:stop] /= by.expand(weight.shape).flatten().sqrt().to(jacobian)
            start = stop
    return jacobian


def last_layer(probe: Probe) -> LastLayer | None:
    """Inputs and outputs of the last linear layer the forward calls, if its outputs are the logits."""
    modules = {clean_name(name): module for name, module in probe.model.named_modules()}
    ran = [met for met in probe.layout.ran if isinstance(modules[met.module], nn.Linear)]
    module = modules[ran[-1].module] if ran else None
    if not isinstance(module, nn.Linear) or ran[-1].calls != 1:
        probe.notes.append("loo/last_layer/* is absent: no linear layer is called once at the end of the forward")
        return None
    if not any(parameter.requires_grad for parameter in module.parameters()):
        probe.notes.append(f"loo/last_layer/* is absent: {ran[-1].module!r} is frozen")
        return None
    seen: list[tuple[Tensor, Tensor]] = []
    features, logits = [], []
    handle = module.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    try:
        with torch.no_grad():
            for batch in probe.batches:
                seen.clear()
                found = probe.logits_on(batch.content, len(batch.targets))
                entering, leaving = seen[-1]
                if leaving.shape != found.shape or not torch.equal(leaving.to(found.dtype), found):
                    probe.notes.append(f"loo/last_layer/* is absent: {ran[-1].module!r} does not yield the logits")
                    return None
                features.append(entering.detach().cpu().double())
                logits.append(found.cpu().double())
    finally:
        handle.remove()
    rows = torch.cat(features)
    if module.bias is not None:
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
    names = {id(parameter): name for name, parameter in probe.model.named_parameters()}
    own = (module.weight,) if module.bias is None else (module.weight, module.bias)
    return LastLayer(rows, torch.cat(logits), tuple(names.get(id(parameter), "") for parameter in own))


def layer_ridge(probe: Probe, layer: LastLayer) -> float | Tensor:
    """The ridge on the layer's weights; shape (classes, inputs), a column for the bias, where it varies.

    A weight that is no trained parameter, frozen or computed from others, has the network's geometric mean.
    """
    ridge = probe.cached(ridge_of)
    if ridge.metric is None:
        return ridge.value
    classes, inputs = layer.logits.shape[1], layer.features.shape[1]
    by_name = dict(zip(trained(probe)[0], ridge.metric, strict=True))
    widths = (inputs,) if len(layer.parameters) == 1 else (inputs - 1, 1)
    parts = []
    for name, width in zip(layer.parameters, widths, strict=True):
        relative = by_name.get(name, torch.ones(())).cpu().double()
        parts.append(relative.reshape(classes, width) if relative.ndim else relative.expand(classes, width))
    found = ridge.value * torch.cat(parts, dim=1)
    return float(found[0, 0]) if bool((found == found[0, 0]).all()) else found


def affordable(parameters: int, classes: int) -> int:
    """The largest number of samples whose explicit Jacobian, and the matrices of its smaller side, fit into memory."""
    parameters = max(parameters, 1)
    rows = DENSE_JACOBIAN // parameters
    return (rows if parameters <= DENSE_SIDE else min(rows, DENSE_SIDE)) // classes


def _gaps(name: str, logits: Tensor, left: LeftOut, targets: Tensor) -> dict[str, float]:
    def loss(of: Tensor) -> float:
        floor = torch.log(torch.tensor(SMALLEST_PROBABILITY, dtype=of.dtype))
        return float(nll_loss(log_softmax(of, dim=1).clamp(min=floor), targets))

    def accuracy(of: Tensor) -> float:
        return float((of.argmax(1) == targets).double().mean())

    return {
        f"loo/{name}/accuracy_gap": accuracy(logits) - accuracy(left.logits),
        f"loo/{name}/loss_gap": loss(left.logits) - loss(logits),
        f"loo/{name}/leverage": float((left.leverage > NEAR_ONE).double().mean()),
    }
