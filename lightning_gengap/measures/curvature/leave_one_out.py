"""Approximate leave-one-out of the last layer: each sample's logits had it not been trained on, to second order."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax, nll_loss

from lightning_gengap.derivatives.fallback import undefined_without_memory
from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.derivatives.time import of_eigenvalues, require_time
from lightning_gengap.derivatives.weight_decay import ridge_of
from lightning_gengap.derivatives.weights import trained
from lightning_gengap.errors import Undefined
from lightning_gengap.linalg.leverage import (
    Blocks,
    LeftOut,
    dense_blocks,
    few_blocks,
    kronecker_blocks,
    left_out,
    leverage_bytes,
    leverage_multiplications,
)
from lightning_gengap.measures.key import INVARIANT, NO, NOTHING, YES, Invariances, Key
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.rows import Rows
from lightning_gengap.network.trace import first_float_tensor

DENSE_WEIGHTS = 5200  # of the last layer; above, its curvature is taken as a Kronecker product
NEAR_ONE = 0.99
SMALLEST_PROBABILITY = 1e-10
TOLERANCE = 1e-3  # of the layer's outputs and derivatives, relative: rounding, TensorFloat-32 included


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
        features: by trained parameter, shape (samples, inputs); of a bias they are ones.
        logits: shape (samples, classes).
        parameters: names of the layer's weight and bias, as far as they are trained.
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


def last_layer(probe: Probe) -> LastLayer:
    """Inputs and outputs of the last linear layer that the forward calls, where they are what its weights make.

    Cost: a forward, and one of the first batch with a backward to the layer.

    Raises:
        Undefined: there is none, it is frozen, its outputs are not the logits, its weights are computed from others,
            it has other trained parameters, or it does something else than a linear layer with these weights.
    """
    ran = [met for met in probe.layout.called if isinstance(probe.modules[met.module], nn.Linear)]
    module = probe.modules[ran[-1].module] if ran else None
    if not isinstance(module, nn.Linear) or ran[-1].calls != 1:
        raise Undefined("no linear layer is called once at the end of the forward")
    own = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not own:
        raise Undefined(f"{ran[-1].module!r} is frozen")
    layer = f"{type(module).__name__} {ran[-1].module!r}"
    if module._parameters.get("weight") is None or (module.bias is not None and "bias" not in module._parameters):
        raise Undefined(f"the weights of {layer} are computed from other parameters")
    if strangers := set(own) - {"weight", "bias"}:
        raise Undefined(f"{layer} has trained parameters beside weight and bias ({min(strangers)})")
    inputs, classes = module.weight.shape[1], module.weight.shape[0]
    require_room(8 * len(probe.targets) * (3 * (inputs + 1) + 2 * classes), f"what enters {layer}")
    entering, logits = _entering_and_leaving(probe, module, layer)
    columns = {"weight": entering, "bias": entering.new_ones(len(entering), 1)}
    features = torch.cat([part for name, part in columns.items() if name in own], dim=1)
    names = {id(parameter): name for name, parameter in probe.model.named_parameters()}
    found = LastLayer(features, logits, tuple(names[id(own[name])] for name in columns if name in own))
    _check_derivative(probe, found, layer)
    return found


def _entering_and_leaving(probe: Probe, module: nn.Linear, layer: str) -> tuple[Tensor, Tensor]:
    """What enters the layer for all samples, and the logits."""
    seen: list[tuple[Tensor | None, Any]] = []
    features, logits, applied, yielded = Rows(), Rows(), [], []

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen.append((first_float_tensor((args, kwargs)), output))

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            for _, found in probe.forwards():
                entering, leaving = seen[-1]
                seen.clear()
                if not (isinstance(leaving, Tensor) and leaving.shape == found.shape):
                    raise Undefined(f"{layer} does not yield the logits")
                yielded.append((leaving.to(found.dtype) == found).all())
                if entering is None or entering.shape != (len(found), module.weight.shape[1]):
                    raise Undefined(f"{layer} does not apply its weight to one row of inputs per sample")
                bias = None if module.bias is None else module.bias.to(entering)
                made = linear(entering, module.weight.to(entering), bias)
                applied.append(_close(made, leaving))
                features.add(entering.detach())
                logits.add(found)
    finally:
        handle.remove()
    if not bool(torch.stack(yielded).all()):
        raise Undefined(f"{layer} does not yield the logits")
    if not bool(torch.stack(applied).all()):
        raise Undefined(f"{layer} does not give what its weight and bias make of its inputs")
    return features.on_cpu().double(), logits.on_cpu().double()


def _check_derivative(probe: Probe, layer: LastLayer, name: str) -> None:
    """Refuse weights that the logits of the first batch depend on in another way than through this layer."""
    batch = probe.batches[0]
    count, trained_weights = len(batch.targets), trained(probe)
    frozen = {other: value.detach() for other, value in probe.model.named_parameters()}
    leaves = {own: trained_weights[own].detach().requires_grad_() for own in layer.parameters}
    logits = probe.logits_on(batch.content, count, frozen | leaves)
    cotangent = torch.randn(logits.shape, generator=torch.Generator().manual_seed(probe.seed)).to(logits)
    if not logits.requires_grad:
        raise Undefined(f"no gradient of the logits reaches {name}")
    slopes = torch.autograd.grad(logits, list(leaves.values()), cotangent, allow_unused=True)
    expected = cotangent.cpu().double().T @ layer.features[:count]
    widths = [leaf[0].numel() for leaf in leaves.values()]
    for slope, part in zip(slopes, expected.split(widths, dim=1), strict=True):
        if slope is None or not _close(slope.cpu().double().reshape(part.shape), part, logits.dtype):
            raise Undefined(f"the logits depend on the weights of {name} in another way than by a linear layer")


def _close(made: Tensor, given: Tensor, precision: torch.dtype | None = None) -> Tensor:
    """Whether tensors are equal but for rounding, of half precision too where one of them has it."""
    tolerance = max(TOLERANCE, 8 * torch.finfo(precision or given.dtype).eps)
    return (made - given).norm() <= tolerance * made.norm()


def layer_ridge(probe: Probe, layer: LastLayer) -> float | Tensor:
    """The ridge on the layer's trained weights; shape (classes, inputs), a column for the bias, where it varies."""
    ridge = probe.cached(ridge_of)
    if ridge.metric is None:
        return ridge.value
    classes, inputs = layer.logits.shape[1], layer.features.shape[1]
    sizes = {name: weight.numel() // classes for name, weight in trained(probe).items()}
    by_name = dict(zip(sizes, ridge.metric, strict=True))
    parts = []
    for name in layer.parameters:
        relative = by_name[name].cpu().double()
        width = sizes[name]
        parts.append(relative.reshape(classes, width) if relative.ndim else relative.expand(classes, width))
    found = ridge.value * torch.cat(parts, dim=1)
    assert found.shape == (classes, inputs)
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
