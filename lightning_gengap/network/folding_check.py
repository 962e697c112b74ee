"""The weight layers of a network with their folded weights, checked in one small forward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lightning_gengap.errors import Undefined, frameless
from lightning_gengap.network.folded_forward import folded_layers
from lightning_gengap.network.folding import at_initial_weights, folded_weights, require_equal_logits
from lightning_gengap.network.layer_graph import Block, LayerGraph, blocks_of
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.trace import clean_name
from lightning_gengap.network.weight_layers import EMBEDDINGS, WeightLayer
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.calling import default_forward

FEW = 8
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
class CheckedLayers:
    """All linear, convolutional and embedding layers by name, in order, and the shortcuts around them."""

    layers: dict[str, WeightLayer]
    blocks: tuple[Block, ...] | Undefined


def checked(probe: Probe) -> CheckedLayers:
    """The network's weight layers, their folded weights checked; take it through `probe.cached`.

    In one forward of at most 8 samples (of a batch, where the content of batches is not plain pairs) every weight layer
    gives what its folded weight and bias make of its input, and every batch norm passes on its input. The weights are
    right where the logits stay as they were, no other parameter reaches them, every batch norm reads the very tensor
    that its layer returned, and nothing else reads that. Cost: three such forwards.

    Raises:
        Undefined: one of this is not so, or a layer has no folded weights; the reason names it.
    """
    weights = folded_weights(probe)
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise Undefined("a weight layer is zero or not finite")
    batch, graph = _few(probe), LayerGraph()
    count = len(batch.targets)
    with torch.no_grad():
        plain = probe.logits_on(batch.content, count)
    leaves = {
        name: value.detach().requires_grad_()
        for name, value in probe.model.named_parameters()
        if value.is_floating_point()
    }
    content = batch.content if batch.inputs is None else batch.with_inputs(batch.inputs.detach().requires_grad_())
    with folded_layers(probe, weights, graph) as embedded:
        logits = probe.logits_on(content, count, leaves)
    coarsest = max((weight.dtype for weight in weights.values()), key=lambda kind: torch.finfo(kind).eps)
    require_equal_logits(logits, plain, coarsest)
    graph.follow(logits)
    _check_operations(graph, {id(value): clean_name(name) for name, value in leaves.items()})
    _check_readers(graph)
    _check_embeddings(probe.modules, embedded, batch.inputs is not None)
    return CheckedLayers(_layers(probe, _with_embeddings(probe, embedded)), _blocks(graph))


def initial_layers(probe: Probe) -> dict[str, WeightLayer] | None:
    """The same layers with their initial weights, folded by the initial statistics; None where they are unknown.

    So they are where a forward computes a weight from other parameters, as pruning does.
    """
    layers = probe.cached(checked).layers
    if any(_made_in_forward(layer.module) for layer in layers.values()):
        return None
    embedded = [name for name, layer in layers.items() if isinstance(layer.module, EMBEDDINGS)]
    weights = at_initial_weights(probe, lambda: _with_embeddings(probe, embedded))
    if weights is None:
        return None
    return {name: replace(layer, weight=weights[name]) for name, layer in layers.items()}


def _made_in_forward(module: nn.Module) -> bool:
    """Whether a hook writes the weight in every forward, as pruning does: it does not follow the parameters at once."""
    return module._parameters.get("weight") is None and not is_parametrized(module, "weight")


def _few(probe: Probe) -> ProbeBatch:
    """A few samples of the first batch where it is a plain pair, else all of it, whatever it holds."""
    batch = probe.batches[0]
    plain = isinstance(batch.content, tuple | list) and batch.inputs is not None and batch.content[0] is batch.inputs
    if batch.inputs is None or not plain or probe.forward is not default_forward:
        return batch
    inputs = batch.inputs[:FEW]
    return ProbeBatch((inputs, batch.targets[:FEW]), batch.targets[:FEW], inputs)


def _with_embeddings(probe: Probe, embedded: list[str]) -> dict[str, Tensor]:
    """The embeddings' weights as they are, and the folded weights."""
    embeddings: dict[str, Any] = {name: probe.modules[name] for name in embedded}
    return {name: module.weight.detach() for name, module in embeddings.items()} | folded_weights(probe)


def _layers(probe: Probe, weights: dict[str, Tensor]) -> dict[str, WeightLayer]:
    called = {each.module: (each.input_shape, each.calls) for each in probe.layout.called}  # without embeddings
    return {
        name: WeightLayer(name, probe.modules[name], weight, *called.get(name, ((), 1)))
        for name, weight in weights.items()
    }


def _blocks(graph: LayerGraph) -> tuple[Block, ...] | Undefined:
    try:
        return blocks_of(graph)
    except Undefined as undefined:
        return frameless(undefined)


def _check_operations(graph: LayerGraph, parameters: dict[int, str]) -> None:
    for node in graph.nodes:
        kind = type(node).__name__
        for part, words in _UNSEEN.items():
            if part in kind:
                raise Undefined(f"{words} between the layers has no folded weights")
        if kind == "SoftmaxBackward0":
            raise Undefined("a softmax between the layers, as in attention, has no folded weights")
        if kind == "DivBackward0" and len(node.next_functions) > 1 and node.next_functions[1][0] is not None:
            raise Undefined("activations are divided by activations, a normalisation without folded weights")
        used = id(getattr(node, "variable", None))
        if used in parameters:
            raise Undefined(f"the parameter {parameters[used]!r} is used outside its layer")


def _check_readers(graph: LayerGraph) -> None:
    for name, call in graph.calls.items():
        if call.output is None:  # computed without gradients
            continue
        if call.output[0] not in graph.nodes:
            raise Undefined(f"the logits do not depend on {name!r}, or not by gradients")
        if call.norm is not None and graph.readings[call.output] > 1:
            raise Undefined(f"the output of {name!r} is read by more than batch norm {call.norm!r}")


def _check_embeddings(modules: dict[str, nn.Module], embedded: list[str], float_inputs: bool) -> None:
    if not embedded:
        return
    kind = f"{type(modules[embedded[0]]).__name__} {embedded[0]!r}"
    if len(embedded) > 1:
        raise Undefined(f"{kind} is not the only call of an embedding: positions have no norm of a layer")
    if float_inputs:
        raise Undefined(f"{kind} does not map the inputs, which are floats")
