from __future__ import annotations

import torch
from torch import Tensor

from lightning_gengap.network.graph import bottlenecks, edge_of, topological_order


def node_of(tensor: Tensor) -> object:
    edge = edge_of(tensor)
    assert edge is not None
    return edge[0]


def passed_by_every_path(inputs: Tensor, tensors: list[Tensor]) -> list[bool]:
    """Whether every path from the inputs to the last tensor passes through each of the tensors."""
    root = edge_of(tensors[-1])
    assert root is not None
    through = bottlenecks(root, node_of(inputs))
    return [edge_of(tensor) in through for tensor in tensors]


def test_parallel_branches_of_any_number_are_no_bottlenecks() -> None:
    inputs = torch.ones(3, requires_grad=True)
    stem = inputs * 2
    x, branches = stem, []
    for _ in range(140):  # far more paths in all than a machine integer counts
        branches.append(x.sin())
        x = x + branches[-1]
    assert passed_by_every_path(inputs, [stem, *branches, x]) == [True, *[False] * 140, True]


def test_graphs_deeper_than_the_recursion_limit_are_walked() -> None:
    inputs = torch.ones(3, requires_grad=True)
    tensors = [inputs]
    for _ in range(1500):
        tensors.append(tensors[-1].tanh())
    assert passed_by_every_path(inputs, tensors) == [True] * 1501


def test_one_of_two_outputs_of_an_operation_is_no_bottleneck() -> None:
    inputs = torch.ones(4, requires_grad=True)
    first, second = inputs.split(2)
    assert passed_by_every_path(inputs, [first, second, first + second]) == [False, False, True]


def test_operations_come_before_those_whose_outputs_they_read() -> None:
    inputs = torch.ones(3, requires_grad=True)
    left, right = inputs.sin(), inputs.cos()
    both = left * right
    order = topological_order(node_of(both))
    assert order[0] is node_of(both)
    assert order[-1] is node_of(inputs)
    assert len(order) == 4


def test_tensors_without_gradients_stand_nowhere_in_the_graph() -> None:
    assert edge_of(torch.ones(3)) is None
    with torch.inference_mode():
        assert edge_of(torch.ones(3, requires_grad=True)) is None
    with torch.no_grad():
        leaf = torch.ones(3, requires_grad=True)
        assert edge_of(leaf) == edge_of(leaf)
        assert edge_of(leaf) is not None
