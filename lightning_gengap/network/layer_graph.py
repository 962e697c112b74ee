"""How tensors flow between weight layers in one forward: who reads what each returned, and where shortcuts lead."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_gengap.errors import Undefined
from lightning_gengap.network.graph import Edge, edge_of, edges_below, topological_order
from lightning_gengap.network.trace import version_of


@dataclass
class LayerCall:
    """What the calls of one layer read and returned; an edge is None where no gradient flows.

    Attributes:
        inputs: what each call read.
        input_shape: of the first.
        output: what the last call returned.
        end: the same, or what the batch norm behind it passed on.
        tensor, version: the output itself, and its in-place version.
        norm: the batch norm that passed the output on.
    """

    inputs: list[Edge | None]
    input_shape: tuple[int, ...]
    output: Edge | None
    end: Edge | None
    tensor: Tensor
    version: int
    norm: str | None = None


@dataclass
class LayerGraph:
    """The calls of the weight layers, and the graph that the logits grew from.

    Attributes:
        calls: by layer, in order.
        nodes: the graph's operations, from the logits on.
        readings: how many operations read each tensor.
    """

    calls: dict[str, LayerCall] = field(default_factory=dict)
    nodes: dict[Any, None] = field(default_factory=dict)
    readings: Counter[Edge] = field(default_factory=Counter)

    def record_call(self, name: str, given: Tensor, made: Tensor) -> None:
        """Note what a layer read and returned."""
        output = edge_of(made) if torch.is_grad_enabled() else None
        call = LayerCall([], tuple(given.shape), output, output, made, version_of(made))
        if name in self.calls:
            call.inputs, call.input_shape = self.calls[name].inputs, self.calls[name].input_shape
        call.inputs.append(edge_of(given))
        self.calls[name] = call

    def record_norm(self, norm: str, layer: str, passed: Tensor) -> None:
        """Note that a batch norm passed the layer's output on, as this tensor."""
        self.calls[layer].norm, self.calls[layer].end = norm, edge_of(passed)

    def is_output(self, layer: str, tensor: Tensor) -> bool:
        """Whether the tensor is what the layer returned, unchanged since."""
        call = self.calls.get(layer)
        if call is None:
            return False
        if call.output is None:
            return call.tensor is tensor and version_of(call.tensor) == call.version
        return edge_of(tensor) == call.output

    def follow(self, logits: Tensor) -> None:
        """Find all nodes from the logits on, and who reads what."""
        root = edge_of(logits)
        self.nodes = dict.fromkeys([] if root is None else topological_order(root[0]))
        for node in self.nodes:
            self.readings.update(edges_below(node))


@dataclass(frozen=True)
class Block:
    """A sum: what some layers make of a tensor, plus that tensor itself or what one other layer makes of it.

    Activations may lie between the layers of the branch. The projection is the other layer, or None for an identity.
    """

    branch: tuple[str, ...]
    projection: str | None


def blocks_of(graph: LayerGraph) -> tuple[Block, ...]:
    """The blocks of a network that is a chain of layers and blocks.

    Raises:
        Undefined: it is not one: somewhere tensors meet in another way, or gradients do not reach a layer.
    """
    if any(call.end is None for call in graph.calls.values()):
        raise Undefined("some layers are computed without gradients")
    return tuple(_block(graph, node) for node in graph.nodes if len(edges_below(node)) > 1)


def _block(graph: LayerGraph, node: Any) -> Block:
    other = Undefined(
        f"{type(node).__name__.removesuffix('Backward0')} joins tensors in another way than a sum "
        "of layers behind one tensor and that tensor, or one other layer of it"
    )
    edges = edges_below(node)
    if type(node).__name__ != "AddBackward0" or len(edges) != 2 or node._saved_alpha != 1:
        raise other
    (first, start), (second, same) = (_path(graph, edge) for edge in edges)
    if first is None or second is None or start != same or graph.readings[start] != 2:
        raise other
    around, branch = sorted((first, second), key=len)
    if len(around) > 1 or len(branch) == len(around):
        raise other
    calls = graph.calls
    shape = calls[around[0]].tensor.shape if around else calls[branch[0]].input_shape
    if calls[branch[-1]].tensor.shape != shape:  # the sum broadcasts
        raise other
    return Block(branch, around[0] if around else None)


def _path(graph: LayerGraph, edge: Edge) -> tuple[tuple[str, ...] | None, Edge]:
    """The layers from the tensor at `edge` back to where it forks, in order, and the fork.

    None instead of the layers where anything but a layer, or nothing, lies at one of the two ends.
    """
    by_end = {call.end: name for name, call in graph.calls.items()}
    layers: list[str] = []
    whole, activated = True, False
    while graph.readings[edge] < 2:
        name = by_end.get(edge)
        if name is not None:
            layers.append(name)
            before = graph.calls[name].inputs[0]
            if before is None or len(graph.calls[name].inputs) > 1:
                return None, edge
            edge, activated = before, False
            continue
        whole, activated = whole and bool(layers), True
        edges = edges_below(edge[0])
        if len(edges) != 1:
            return None, edge
        edge = edges[0]
    return (tuple(reversed(layers)) if whole and not (layers and activated) else None), edge
