"""The autograd graph that a forward left: its tensors as edges, and those that every path passes through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Edge = tuple[Any, int]  # an autograd node and the number of its output: one tensor of the graph


def edge_of(tensor: Tensor) -> Edge | None:
    """Where a tensor stands in the graph; None where no gradient flows."""
    if not tensor.requires_grad:
        return None
    if tensor.grad_fn is not None:
        return tensor.grad_fn, tensor.output_nr
    with torch.enable_grad():
        node = tensor.view_as(tensor).grad_fn
    return None if node is None else node.next_functions[0]  # None in inference mode


def edges_below(node: Any) -> list[Edge]:
    """The tensors that an operation read."""
    return [(child, number) for child, number in node.next_functions if child is not None]


def topological_order(*roots: Any) -> list[Any]:
    """All operations that lead to `roots`, each before those whose outputs it read.

    Iterative: deep networks exceed the recursion limit.
    """
    order: list[Any] = []
    seen: set[Any] = set()
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
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


def bottlenecks(root: Edge, source: Any) -> set[Edge]:
    """The tensors that every path from the operation `source` to the tensor `root` passes through.

    A tensor is one exactly when (paths from the source to it) x (paths from it to the root) equals the number of all
    paths. Two sweeps in topological order count them, with Python's unbounded integers.
    """
    order = topological_order(root[0])
    to_root: dict[Edge, int] = {root: 1}
    leaving: dict[Any, int] = {root[0]: 1}
    for node in order:
        for edge in edges_below(node):
            to_root[edge] = to_root.get(edge, 0) + leaving[node]
            leaving[edge[0]] = leaving.get(edge[0], 0) + leaving[node]
    from_source: dict[Any, int] = {}
    for node in reversed(order):
        from_source[node] = sum(from_source[child] for child, _ in edges_below(node)) + (node is source)
    return {edge for edge, count in to_root.items() if count * from_source[edge[0]] == from_source[root[0]]}
