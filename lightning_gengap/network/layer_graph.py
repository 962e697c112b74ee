"""How tensors flow between weight layers in one forward: what each layer read and returned, and who reads that."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_gengap.network.graph import Edge, edge_of, edges_below
from lightning_gengap.network.trace import version_of


@dataclass
class LayerCall:
    """What the calls of one layer read and returned.

    Attributes:
        inputs: what each call read; None where no gradient flows, as everywhere.
        input_shape: the shape of what the first call read.
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
        nodes: the graph's nodes, in the order in which they are found from the logits.
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
        waiting = [] if root is None else [root[0]]
        while waiting:
            node = waiting.pop()
            if node not in self.nodes:
                self.nodes[node] = None
                edges = edges_below(node)
                self.readings.update(edges)
                waiting += [child for child, _ in edges]
