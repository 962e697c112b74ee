"""A network's weights with every batch norm folded into the layer before it, as a state of the same modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_gengap.network.functional_call import call_with
from lightning_gengap.network.layers import CalledModule
from lightning_gengap.network.probe import Probe, State
from lightning_gengap.network.trace import clean_name
from lightning_gengap.network.weight_layers import BATCH_NORMS, NotFoldableError, folded_bias, folded_weights

TOLERANCE = 1e-3
Quantity = TypeVar("Quantity")


@dataclass(frozen=True)
class Folded:
    """A network at some weights, batch norms folded; binding `state` gives the logits of the unfolded network.

    With scale s = weight / sqrt(running_var + eps), the layer before a batch norm has weights s W, and the batch norm
    only adds its bias, bias + s (b - running_mean).

    Attributes:
        state: parameters and buffers by the model's own names.
        free: names of the parameters that are left, those that the logits depend on; integers are constants.
    """

    state: dict[str, Tensor]
    free: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The tensors that are perturbed: weights and biases."""
        return {name: self.state[name] for name in self.free}

    @property
    def weights(self) -> dict[str, Tensor]:
        """The tensors that norms count: all but biases and other vectors."""
        return {name: value for name, value in self.parameters.items() if value.ndim >= 2}


def folded(probe: Probe) -> Folded:
    """The probe's network folded, checked to reproduce its logits; take it through `probe.cached`.

    A network without batch norm is given as it is, whatever its layers. Cost: a forward and backward of one batch.

    Raises:
        NotFoldableError: a batch norm does not directly follow a layer of its own, a parameter is complex, or the
            network depends on no parameter; the message says which.
    """
    network = fold(probe.model, probe.layout.ran)
    batch = probe.batches[0]
    leaves = {name: value.clone() for name, value in network.parameters.items() if value.is_floating_point()}
    for leaf in leaves.values():
        leaf.requires_grad_()
    logits = probe.logits_on(batch.content, len(batch.targets), network.state | leaves)
    with torch.no_grad():
        plain = probe.logits_on(batch.content, len(batch.targets))
    if not bool((logits.detach() - plain).abs().max() <= TOLERANCE * plain.abs().max()):
        raise NotFoldableError("with its batch norms folded the network gives other logits")
    if not logits.requires_grad:
        raise NotFoldableError("the logits depend on no parameter")
    used = torch.autograd.grad(logits.sum(), list(leaves.values()), allow_unused=True)
    free = tuple(name for name, gradient in zip(leaves, used, strict=True) if gradient is not None)
    return Folded(network.state, free)


def folded_initial(probe: Probe) -> Folded | None:
    """The network at its initial weights, folded; None where they are unknown.

    Raises:
        NotFoldableError: as `folded`.
    """
    if probe.initial_state is None:
        return None
    return read_at(probe.model, probe.initial_state, lambda model: fold(model, probe.layout.ran))


def read_at(model: nn.Module, state: State, read: Callable[[nn.Module], Quantity]) -> Quantity:
    """What `read` gives while the model's parameters and buffers are exchanged for `state`, on their devices."""
    devices = {name: value.device for name, value in [*model.named_parameters(), *model.named_buffers()]}
    bound = {f"model.{name}": value.to(devices[name]) for name, value in state.items() if name in devices}
    return call_with(_Reader(model, read), bound)


def folded_weights_of(model: nn.Module, ran: tuple[CalledModule, ...]) -> dict[str, Tensor]:
    """`folded_weights` of a model as it is now.

    Raises:
        NotFoldableError: a parameterised layer is neither linear, convolutional nor a foldable batch norm.
    """
    return folded_weights({clean_name(name): module for name, module in model.named_modules()}, ran)


def fold(model: nn.Module, ran: tuple[CalledModule, ...]) -> Folded:
    """Fold every batch norm that the forward calls; nothing is written to the model.

    Raises:
        NotFoldableError: as `folded`.
    """
    modules = {clean_name(name): module for name, module in model.named_modules()}
    complex_valued = [name for name, value in model.named_parameters() if value.is_complex()]
    if complex_valued:
        raise NotFoldableError(f"the parameter {complex_valued[0]!r} is complex")
    state = {name: value.detach() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    free = dict.fromkeys(name for name, _ in model.named_parameters())
    norms = [met for met in ran if isinstance(modules[met.module], BATCH_NORMS)]
    if not norms:
        return Folded(state, tuple(free))
    own = {clean_name(name): name for name in state}
    owners = Counter(id(value) for module in model.modules() for value in module._parameters.values())
    weights = folded_weights(modules, ran)
    for met in norms:
        assert met.after is not None  # else `folded_weights` had refused
        norm, layer = modules[met.module], modules[met.after]
        if layer._parameters.get("weight") is None:
            raise NotFoldableError(f"the weight of {met.after!r} is computed from other parameters")
        if owners[id(layer.weight)] > 1:
            raise NotFoldableError(f"the weight of {met.after!r} is another layer's too")
        shift = folded_bias(norm, layer)
        holder, others = _holder_of_bias(norm, layer, met.module, met.after)
        values = {f"{met.after}.weight": weights[met.after], f"{met.module}.weight": torch.ones_like(shift)}
        values |= {name: torch.zeros_like(shift) for name in (*others, f"{met.module}.running_mean")}
        values |= {f"{met.module}.running_var": torch.full_like(shift, 1 - norm.eps), holder: shift}
        if holder.endswith("running_mean"):
            values[holder] = -shift
        state |= {own[name]: value for name, value in values.items() if name in own}
        for name in (f"{met.module}.weight", *others):
            free.pop(own.get(name, ""), None)
    return Folded(state, tuple(free))


def _holder_of_bias(norm: nn.Module, layer: nn.Module, norm_name: str, layer_name: str) -> tuple[str, tuple[str, ...]]:
    """The name that takes the folded bias, and those that become zero."""
    if norm.bias is not None:
        return f"{norm_name}.bias", (f"{layer_name}.bias",)
    if layer.bias is not None:
        return f"{layer_name}.bias", ()
    return f"{norm_name}.running_mean", ()


class _Reader(nn.Module):
    """A function of a model as a forward, so that other weights can be bound for one call."""

    def __init__(self, model: nn.Module, read: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.model = model
        self._read = read

    def forward(self) -> Any:
        return self._read(self.model)
