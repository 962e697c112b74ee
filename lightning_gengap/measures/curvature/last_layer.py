"""The last linear layer of a network: what enters and leaves it, and the ridge on its trained weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.derivatives.weight_decay import ridge_of
from lightning_gengap.derivatives.weights import trained
from lightning_gengap.errors import Undefined
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.rows import Rows
from lightning_gengap.network.trace import first_float_tensor

TOLERANCE = 1e-3  # of the layer's outputs and derivatives, relative: rounding, TensorFloat-32 included


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
