"""How tensors flow between weight layers in one forward: who reads a layer's output, and what leads around layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_gengap.network.trace import version_of
from lightning_gengap.network.weight_layers import NotFoldableError

Edge = tuple[Any, int]  # an autograd node and the number of its output: one tensor of the graph


@dataclass(frozen=True)
class Block:
    """A sum of what layers make of a tensor and of that tensor, or of what one other layer makes of it.

    Attributes:
        branch: the layers, in order; activations may lie between them.
        projection: the other layer; None for an identity.
    """

    branch: tuple[str, ...]
    projection: str | None


@dataclass(frozen=True)
class Shortcuts:
    """The blocks of a network that is a chain of layers and blocks; `refusal` says why it is not one."""

    blocks: tuple[Block, ...] = ()
    refusal: str | None = None


@dataclass
class Graph:
    """The calls of weight layers in one forward, by layer, and the graph that the logits grew from."""

    inputs: dict[str, list[tuple[Edge | None, tuple[int, ...]]]] = field(default_factory=dict)
    outputs: dict[str, tuple[Edge | None, tuple[int, ...]]] = field(default_factory=dict)
    ends: dict[str, Edge | None] = field(default_factory=dict)
    passed: dict[str, str] = field(default_factory=dict)
    nodes: dict[Any, None] = field(default_factory=dict)
    readings: Counter[Edge] = field(default_factory=Counter)
    _made: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def called(self, name: str, given: Tensor, made: Tensor) -> None:
        """Note a call of a layer."""
        self.inputs.setdefault(name, []).append((_edge(given), tuple(given.shape)))
        self.outputs[name] = _edge(made) if torch.is_grad_enabled() else None, tuple(made.shape)
        self.ends[name] = self.outputs[name][0]
        self._made[name] = made, version_of(made)

    def returned(self, name: str, tensor: Tensor) -> bool:
        """Whether the tensor is what the layer returned, and is as it was."""
        if name not in self.outputs:
            return False
        edge, (made, version) = self.outputs[name][0], self._made[name]
        return made is tensor and version_of(made) == version if edge is None else _edge(tensor) == edge

    def passed_on(self, norm: str, layer: str, tensor: Tensor) -> None:
        """Note that a batch norm passed on the layer's output, as this tensor."""
        self.passed[norm] = layer
        self.ends[layer] = _edge(tensor)

    def grown_from(self, logits: Tensor) -> tuple[Any, ...]:
        """Follow the graph from the logits; all its nodes."""
        root = _edge(logits)
        waiting = [] if root is None else [root[0]]
        while waiting:
            node = waiting.pop()
            if node not in self.nodes:
                self.nodes[node] = None
                edges = _next(node)
                self.readings.update(edges)
                waiting += [child for child, _ in edges]
        return tuple(self.nodes)

    def reached(self, name: str) -> bool:
        """Whether gradients of the logits reach the layer's output, where they are taken at all."""
        edge = self.outputs[name][0]
        return edge is None or edge[0] in self.nodes

    def readers(self, name: str) -> int:
        """How many operations read the layer's output, before its batch norm."""
        edge = self.outputs[name][0]
        return 0 if edge is None else self.readings[edge]


def shortcuts_in(graph: Graph) -> Shortcuts:
    """The blocks of the network; every other place where two tensors meet is a refusal."""
    try:
        if any(edge is None for edge in graph.ends.values()):
            raise NotFoldableError("some layers are computed without gradients")
        return Shortcuts(tuple(_block(graph, node) for node in graph.nodes if len(_next(node)) > 1))
    except NotFoldableError as reason:
        return Shortcuts(refusal=str(reason))


def _block(graph: Graph, node: Any) -> Block:
    other = NotFoldableError(
        f"{type(node).__name__.removesuffix('Backward0')} joins tensors in another way than a sum "
        "of layers behind one tensor and that tensor, or one other layer of it"
    )
    edges = _next(node)
    if type(node).__name__ != "AddBackward0" or len(edges) != 2 or node._saved_alpha != 1:
        raise other
    (first, start), (second, same) = (_path(graph, edge) for edge in edges)
    if first is None or second is None or start != same or graph.readings[start] != 2:
        raise other
    around, branch = sorted((first, second), key=len)
    if len(around) > 1 or len(branch) == len(around):
        raise other
    shape = graph.inputs[branch[0]][0][1] if not around else graph.outputs[around[0]][1]
    if graph.outputs[branch[-1]][1] != shape:
        raise other
    return Block(branch, around[0] if around else None)


def _path(graph: Graph, edge: Edge) -> tuple[tuple[str, ...] | None, Edge]:
    """The layers from the tensor at `edge` back to where it forks, in order, and the fork.

    None instead of the layers where anything but a layer, or nothing, lies at one of the two ends.
    """
    by_end = {end: name for name, end in graph.ends.items()}
    layers: list[str] = []
    whole, activated = True, False
    while graph.readings[edge] < 2:
        name = by_end.get(edge)
        if name is not None:
            layers.append(name)
            before = graph.inputs[name][0][0]
            if before is None or len(graph.inputs[name]) > 1:
                return None, edge
            edge, activated = before, False
            continue
        whole, activated = whole and bool(layers), True
        edges = _next(edge[0])
        if len(edges) != 1:
            return None, edge
        edge = edges[0]
    return (tuple(reversed(layers)) if whole and not (layers and activated) else None), edge


def _edge(tensor: Tensor) -> Edge | None:
    if not tensor.requires_grad:
        return None
    if tensor.grad_fn is not None:
        return tensor.grad_fn, tensor.output_nr
    with torch.enable_grad():
        node = tensor.view_as(tensor).grad_fn
    return None if node is None else node.next_functions[0]  # None in inference mode


def _next(node: Any) -> list[Edge]:
    return [(child, number) for child, number in node.next_functions if child is not None]
