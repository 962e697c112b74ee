"""The autograd graph of one forward: which tensors it holds, and what each is computed from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Edge = tuple[Any, int]  # an autograd node and the number of its output: one tensor of the graph


def edge_of(tensor: Tensor) -> Edge | None:
    """The tensor's place in the graph; None where no gradient flows."""
    if not tensor.requires_grad:
        return None
    if tensor.grad_fn is not None:
        return tensor.grad_fn, tensor.output_nr
    with torch.enable_grad():
        node = tensor.view_as(tensor).grad_fn
    return None if node is None else (node.next_functions[0][0], 0)  # None in inference mode


def edges_below(node: Any) -> list[Edge]:
    """The tensors that a node reads."""
    return [(child, number) for child, number in node.next_functions if child is not None]


def topological(root: Any) -> list[Any]:
    """Nodes below `root`, each before the nodes it leads to (iterative: deep networks exceed the recursion limit)."""
    order: list[Any] = []
    seen = {root}
    stack = [(root, iter(edges_below(root)))]
    while stack:
        node, children = stack[-1]
        for child, _ in children:
            if child not in seen:
                seen.add(child)
                stack.append((child, iter(edges_below(child))))
                break
        else:
            order.append(node)
            stack.pop()
    return order[::-1]
