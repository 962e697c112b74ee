"""The folded weights, verified: one small forward in which every weight layer is exchanged for its folded map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gengap.network.folding import TOLERANCE, folded_weights_of, read_at
from lightning_gengap.network.layers import CalledModule
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.shortcuts import Graph, Shortcuts, shortcuts_in
from lightning_gengap.network.trace import clean_name, first_float_tensor
from lightning_gengap.network.weight_layers import (
    BATCH_NORMS,
    NotFoldableError,
    folded_bias,
    scale_of,
    weight_operator,
)
from lightning_gengap.samples.batches import ProbeBatch, default_forward

FEW = 8
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
# Operations that norms of weights do not see: what lies in front of a normalisation has no scale.
_UNSEEN = {
    "BatchNorm": "a normalisation by its own statistics",
    "LayerNorm": "layer norm",
    "GroupNorm": "group norm",
    "RmsNorm": "a normalisation",
    "RMSNorm": "a normalisation",
    "ScaledDotProduct": "attention",
    "EfficientAttention": "attention",
    "FlashAttention": "attention",
}


@dataclass(frozen=True)
class Verified:
    """What the forward showed.

    Attributes:
        weights: the folded weights by layer, in order; an embedding counts as the linear map of one-hot inputs.
        embeddings: names of the embeddings among them.
        shortcuts: how shortcuts lead around the layers.
        refusal: why the norms are not defined for this network; the rest is then empty.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    embeddings: tuple[str, ...] = ()
    shortcuts: Shortcuts = field(default_factory=Shortcuts)
    refusal: str | None = None


def verified_weights(probe: Probe) -> dict[str, Tensor]:
    """Folded weights of all linear, convolutional and embedding layers, by layer.

    In one forward of at most 8 samples (of a batch, where the content of batches is not plain pairs) every weight layer
    gives what its folded weight and bias make of its input, and every batch norm passes on its input. The weights are
    right where the logits stay as they were, no other parameter reaches them, every batch norm reads the very tensor
    that its layer returned, and nothing else reads that. Cost: three such forwards.

    Raises:
        NotFoldableError: that is not so, or a layer has no folded weights; the message names it.
    """
    found = probe.cached(verified)
    if found.refusal is not None:
        raise NotFoldableError(found.refusal)
    return found.weights


def initial_weights(probe: Probe) -> dict[str, Tensor] | None:
    """The same of the initial network, folded by its own statistics; None where it is unknown.

    Raises:
        NotFoldableError: as `verified_weights`.
    """
    verified_weights(probe)
    if probe.initial_state is None:
        return None
    ran, embeddings = probe.layout.ran, probe.cached(verified).embeddings
    return read_at(probe.model, probe.initial_state, lambda model: _weights_of(model, ran, embeddings))


def verified(probe: Probe) -> Verified:
    """What the forward shows, also that it refuses; take it through `probe.cached`."""
    try:
        return _verify(probe)
    except NotFoldableError as reason:
        return Verified(refusal=str(reason))


def _verify(probe: Probe) -> Verified:
    weights = folded_weights_of(probe.model, probe.layout.ran)
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise NotFoldableError("a weight layer is zero or not finite")
    batch = _few(probe)
    count = len(batch.targets)
    with torch.no_grad():
        plain = probe.logits_on(batch.content, count)
    parameters = [(name, value) for name, value in probe.model.named_parameters() if value.is_floating_point()]
    leaves = {name: value.detach().requires_grad_() for name, value in parameters}
    inputs = None if batch.inputs is None else batch.inputs.detach().requires_grad_()
    modules = {clean_name(name): module for name, module in probe.model.named_modules()}
    graph, embedded = Graph(), list[str]()
    handles = [
        modules[name].register_forward_hook(hook, with_kwargs=True)
        for name, hook in _hooks(modules, probe.layout.ran, weights, graph, embedded).items()
    ]
    try:
        logits = probe.logits_on(batch.content if inputs is None else batch.with_inputs(inputs), count, leaves)
    finally:
        for handle in handles:
            handle.remove()
    coarsest = max((weight.dtype for weight in weights.values()), key=lambda kind: torch.finfo(kind).eps)
    if not _close(logits, plain, coarsest):
        raise NotFoldableError("with its batch norms folded the network gives other logits")
    nodes = graph.grown_from(logits)
    names = {id(value): clean_name(name) for name, value in leaves.items()}
    for node in nodes:
        _check_operation(node)
        if id(getattr(node, "variable", None)) in names:
            raise NotFoldableError(f"the parameter {names[id(node.variable)]!r} is used outside its layer")
    _check_readers(graph, {met.after: met.module for met in probe.layout.ran if met.module in graph.passed})
    _check_embeddings(modules, embedded, inputs is not None)
    everything = _weights_of(probe.model, probe.layout.ran, tuple(embedded))
    return Verified(everything, tuple(embedded), shortcuts_in(graph))


def _few(probe: Probe) -> ProbeBatch:
    """A few samples of the first batch where it is a plain pair, else all of it, whatever it holds."""
    batch = probe.batches[0]
    plain = isinstance(batch.content, tuple | list) and batch.inputs is not None and batch.content[0] is batch.inputs
    if batch.inputs is None or not plain or probe.forward is not default_forward:
        return batch
    inputs = batch.inputs[:FEW]
    return ProbeBatch((inputs, batch.targets[:FEW]), batch.targets[:FEW], inputs)


def _weights_of(model: nn.Module, ran: tuple[CalledModule, ...], embeddings: tuple[str, ...]) -> dict[str, Tensor]:
    modules = {clean_name(name): module for name, module in model.named_modules()}
    return {name: modules[name].weight.detach() for name in embeddings} | folded_weights_of(model, ran)


def _hooks(
    modules: dict[str, nn.Module],
    ran: tuple[CalledModule, ...],
    weights: dict[str, Tensor],
    graph: Graph,
    embedded: list[str],
) -> dict[str, Callable[..., Tensor]]:
    """By module, the forward hooks that exchange what it returns."""
    norms = {met.module: met.after for met in ran if isinstance(modules[met.module], BATCH_NORMS)}
    behind = {layer: modules[norm] for norm, layer in norms.items() if layer is not None}
    hooks: dict[str, Callable[..., Tensor]] = {}
    for name, weight in weights.items():
        hooks[name] = _folded_layer(name, weight, behind.get(name), graph)
    for name, layer in norms.items():
        assert layer is not None  # else `folded_weights` had refused
        hooks[name] = _passing_norm(name, layer, graph)
    for name, module in modules.items():
        if isinstance(module, _EMBEDDINGS):
            hooks[name] = _constant_embedding(name, embedded)
    return hooks


def _folded_layer(name: str, weight: Tensor, norm: nn.Module | None, graph: Graph) -> Callable[..., Tensor]:
    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Tensor:
        given = first_float_tensor((args, kwargs))
        strange = NotFoldableError(f"{type(module).__name__} {name!r} does not apply its weight as its kind does")
        if given is None or not isinstance(output, Tensor):
            raise strange
        made = weight_operator(module, weight.to(given))(given)
        bias = module.bias if norm is None else folded_bias(norm, module)
        if bias is not None:
            spatial = () if isinstance(module, nn.Linear) else (1,) * (weight.ndim - 2)
            made = made + bias.detach().to(given).reshape(-1, *spatial)
        if made.shape != output.shape or (norm is None and not _close(made, output)):
            raise strange
        made = made if made.requires_grad else made.requires_grad_()
        graph.called(name, given, made)
        return made

    return hook


def _passing_norm(name: str, layer: str, graph: Graph) -> Callable[..., Tensor]:
    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Tensor:
        given = first_float_tensor((args, kwargs))
        if given is None or not graph.returned(layer, given):
            raise NotFoldableError(f"batch norm {name!r} does not read the output of {layer!r} as it is")
        scale, mean = (
            value.to(given).reshape(-1, *[1] * (given.ndim - 2)) for value in (scale_of(module), module.running_mean)
        )
        normed = (given - mean) * scale
        if module.bias is not None:
            normed = normed + module.bias.detach().to(given).reshape(mean.shape)
        if not isinstance(output, Tensor) or not _close(normed, output):
            raise NotFoldableError(f"{type(module).__name__} {name!r} does not normalise as a batch norm does")
        passed = given.clone()
        graph.passed_on(name, layer, passed)
        return passed

    return hook


def _constant_embedding(name: str, embedded: list[str]) -> Callable[..., Tensor]:
    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Tensor:
        embedded.append(name)
        genuine = type(module).forward in (nn.Embedding.forward, nn.EmbeddingBag.forward)
        if not genuine or module.max_norm is not None or getattr(module, "mode", "sum") == "max":
            raise NotFoldableError(f"{type(module).__name__} {name!r} is no linear map of one-hot inputs")
        return output.detach().requires_grad_()

    return hook


def _close(tensor: Tensor, reference: Tensor, precision: torch.dtype | None = None) -> bool:
    tolerance = max(TOLERANCE, 8 * torch.finfo(precision or reference.dtype).eps)
    distance = (tensor.detach() - reference.detach()).abs().max()
    return bool(distance <= tolerance * reference.detach().abs().max())


def _check_operation(node: Any) -> None:
    kind = type(node).__name__
    for part, words in _UNSEEN.items():
        if part in kind:
            raise NotFoldableError(f"{words} between the layers has no folded weights")
    if kind == "SoftmaxBackward0":
        raise NotFoldableError("a softmax between the layers, as in attention, has no folded weights")
    divisor = node.next_functions[1][0] if kind == "DivBackward0" and len(node.next_functions) > 1 else None
    if divisor is not None:
        raise NotFoldableError("activations are divided by activations, a normalisation without folded weights")


def _check_readers(graph: Graph, norms: dict[str | None, str]) -> None:
    for name in graph.outputs:
        if not graph.reached(name):
            raise NotFoldableError(f"the logits do not depend on {name!r}, or not by gradients")
        if name in norms and graph.readers(name) > 1:
            raise NotFoldableError(f"the output of {name!r} is read by more than batch norm {norms[name]!r}")


def _check_embeddings(modules: dict[str, nn.Module], embedded: list[str], float_inputs: bool) -> None:
    if not embedded:
        return
    kind = f"{type(modules[embedded[0]]).__name__} {embedded[0]!r}"
    if len(embedded) > 1:
        raise NotFoldableError(f"{kind} is not the only call of an embedding: positions have no norm of a layer")
    if float_inputs:
        raise NotFoldableError(f"{kind} does not map the inputs, which are floats")
