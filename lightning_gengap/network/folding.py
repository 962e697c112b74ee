"""Batch norms folded into the layers before them: as weights by layer, and as a state of the same modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_gengap.errors import Undefined
from lightning_gengap.network.functional_call import run_at
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.trace import clean_name
from lightning_gengap.network.weight_layers import BATCH_NORMS, LINEAR, scaled

TOLERANCE = 1e-3
UNKNOWN_START = "the initial weights are unknown"  # why what needs them is undefined
Quantity = TypeVar("Quantity")


@dataclass(frozen=True)
class FoldedNetwork:
    """A network at some weights with its batch norms folded. Bound to `state`, it gives the same logits as before.

    A batch norm in eval mode multiplies by s = weight / sqrt(running_var + eps). Folded, the layer before it has the
    weights s W, and the batch norm only adds its bias, bias + s (b - running_mean).

    Attributes:
        state: parameters and buffers by the model's own names.
        free: names of the parameters that are left and that the logits depend on; integers are constants.
    """

    state: dict[str, Tensor]
    free: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The tensors that noise perturbs: weights and biases."""
        return {name: self.state[name] for name in self.free}

    @property
    def weights(self) -> dict[str, Tensor]:
        """The tensors that norms count: all but biases and other vectors."""
        return {name: value for name, value in self.parameters.items() if value.ndim >= 2}


def folded(probe: Probe) -> FoldedNetwork:
    """The probe's network folded, checked to reproduce its logits; take it through `probe.cached`.

    A network without batch norm is given as it is, whatever its layers. Cost: a forward and backward of one batch.

    Raises:
        Undefined: a batch norm does not directly follow a layer of its own, a parameter is complex, or the logits
            depend on no parameter.
    """
    network = fold(probe)
    batch = probe.batches[0]
    tensors = network.parameters.items()
    leaves = {name: value.clone().requires_grad_() for name, value in tensors if value.is_floating_point()}
    logits = probe.logits_on(batch.content, len(batch.targets), network.state | leaves)
    with torch.no_grad():
        require_equal_logits(logits, probe.logits_on(batch.content, len(batch.targets)))
    if not logits.requires_grad:
        raise Undefined("the logits depend on no parameter")
    used = torch.autograd.grad(logits.sum(), list(leaves.values()), allow_unused=True)
    free = tuple(name for name, gradient in zip(leaves, used, strict=True) if gradient is not None)
    return FoldedNetwork(network.state, free)


def folded_initial(probe: Probe) -> FoldedNetwork | None:
    """The network at its initial weights, folded; None where they are unknown."""
    return at_initial_weights(probe, lambda: fold(probe))


def at_initial_weights(probe: Probe, read: Callable[[], Quantity]) -> Quantity | None:
    """What `read` gives while the probe's modules hold their initial parameters and buffers; None if unknown."""
    if probe.initial_state is None:
        return None
    return run_at(probe.model, probe.initial_state, read)


def fold(probe: Probe) -> FoldedNetwork:
    """Fold every batch norm that the forward calls; nothing is written to the model.

    Raises:
        Undefined: a batch norm does not directly follow a layer of its own, or a parameter is complex.
    """
    model, modules = probe.model, probe.modules
    complex_valued = [name for name, value in model.named_parameters() if value.is_complex()]
    if complex_valued:
        raise Undefined(f"the parameter {complex_valued[0]!r} is complex")
    state = {name: value.detach() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    free = dict.fromkeys(name for name, _ in model.named_parameters())
    norms = [called for called in probe.layout.called if isinstance(modules[called.module], BATCH_NORMS)]
    if not norms:
        return FoldedNetwork(state, tuple(free))
    own = {clean_name(name): name for name in state}
    owners = Counter(id(value) for module in model.modules() for value in module._parameters.values())
    weights = folded_weights(probe)
    for norm in norms:
        layer_name = norm.after
        assert layer_name is not None  # else `folded_weights` had refused
        layer = modules[layer_name]
        if layer._parameters.get("weight") is None:
            raise Undefined(f"the weight of {layer_name!r} is computed from other parameters")
        if owners[id(layer.weight)] > 1:
            raise Undefined(f"the weight of {layer_name!r} is another layer's too")
        values, constants = _folded_tensors(modules, norm.module, layer_name)
        values[f"{layer_name}.weight"] = weights[layer_name]
        state |= {own[name]: value for name, value in values.items() if name in own}
        for name in constants:
            free.pop(own.get(name, ""), None)
    return FoldedNetwork(state, tuple(free))


def _folded_tensors(
    modules: dict[str, nn.Module], norm_name: str, layer_name: str
) -> tuple[dict[str, Tensor], list[str]]:
    """What a batch norm and the bias before it become, by name, and the parameters among them that are constants."""
    norm: Any = modules[norm_name]
    layer: Any = modules[layer_name]
    shift = folded_bias(norm, layer)
    zero, one, variance = (torch.full_like(shift, value) for value in (0.0, 1.0, 1 - norm.eps))
    bias, norm_bias, mean = f"{layer_name}.bias", f"{norm_name}.bias", f"{norm_name}.running_mean"
    values = {f"{norm_name}.weight": one, mean: zero, f"{norm_name}.running_var": variance}
    constants = [f"{norm_name}.weight"]
    if norm.bias is not None:
        constants.append(bias)
        return values | {norm_bias: shift, bias: zero}, constants
    return values | ({bias: shift} if layer.bias is not None else {mean: -shift}), constants


def folded_weights(probe: Probe) -> dict[str, Tensor]:
    """Weights of the linear and convolutional layers that the forward calls, by layer, batch norms folded.

    Raises:
        Undefined: a parameterised layer is neither of these nor a foldable batch norm.
    """
    modules = probe.modules
    if any(p is not None and p.is_floating_point() for p in modules[""]._parameters.values()):
        raise Undefined(f"{type(modules['']).__name__} has parameters outside its layers")
    weights: dict[str, Tensor] = {}
    unfolded = {called.module for called in probe.layout.called if called.calls == 1}
    for called in probe.layout.called:
        name, before = called.module, called.after
        module: Any = modules[name]
        if isinstance(module, LINEAR):
            weights[name] = module.weight.detach()
        elif isinstance(module, BATCH_NORMS):
            if before not in weights or before not in unfolded or called.calls > 1 or module.running_var is None:
                raise Undefined(
                    f"batch norm {name!r} does not directly follow a linear or convolutional layer of its own"
                )
            if isinstance(modules[before], nn.Linear) and len(called.input_shape) != 1:
                raise Undefined(f"batch norm {name!r} does not scale the outputs of {before!r}")
            unfolded.remove(before)
            weights[before] = scaled(modules[before], weights[before], scale_of(module))
        elif any(p is not None for p in module._parameters.values()):
            raise Undefined(f"{type(module).__name__} {name!r} cannot be folded into a weight layer")
    if not weights:
        raise Undefined("the forward calls no linear or convolutional layer")
    return weights


def scale_of(norm: Any) -> Tensor:
    """What a batch norm in eval mode multiplies every channel by; shape (channels,)."""
    scale: Tensor = (norm.running_var + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight.detach()


def folded_bias(norm: Any, layer: Any) -> Tensor:
    """The bias of a layer once the batch norm behind it is folded; shape (channels,)."""
    moved: Tensor = -norm.running_mean if layer.bias is None else layer.bias.detach() - norm.running_mean
    return scale_of(norm) * moved + (0.0 if norm.bias is None else norm.bias.detach())


def close(tensor: Tensor, reference: Tensor, precision: torch.dtype | None = None) -> bool:
    """Whether a tensor is the reference within a thousandth of its largest entry, or the rounding of `precision`."""
    tolerance = max(TOLERANCE, 8 * torch.finfo(precision or reference.dtype).eps)
    distance = (tensor.detach() - reference.detach()).abs().max()
    return bool(distance <= tolerance * reference.detach().abs().max())


def require_equal_logits(logits: Tensor, plain: Tensor, precision: torch.dtype | None = None) -> None:
    """Raise `Undefined` where the folded network has other logits than the plain one."""
    if not close(logits, plain, precision):
        raise Undefined("with its batch norms folded the network gives other logits")
