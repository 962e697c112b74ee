"""Shortcuts around weight layers, as in residual networks: read off the graph of one forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_gengap.errors import Undefined
from lightning_gengap.network.graph import Edge, edges_below
from lightning_gengap.network.layer_graph import LayerGraph


@dataclass(frozen=True)
class Block:
    """A sum: what some layers make of a tensor, plus that tensor itself or what one other layer makes of it.

    Attributes:
        branch: the layers, in order; activations may lie between them.
        projection: the other layer; None for an identity.
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
