from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_gengap.samples.nested import copied, exchange, flat_tensors, joined, map_tensors, rows_of

Pair = namedtuple("Pair", ["images", "labels"])


class Encoding(UserDict[str, Any]):
    """As the BatchEncoding of Hugging Face: a mapping that is no dict."""


class Subclass(dict[str, Any]):
    pass


class Frozen(Mapping[str, Any]):
    """Cannot be built from its items alone."""

    def __init__(self, images: Any, labels: Any) -> None:
        self._held = {"images": images, "labels": labels}

    def __getitem__(self, key: str) -> Any:
        return self._held[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


@dataclass(frozen=True)
class Record:
    images: Any
    labels: Any
    count: int = field(init=False, default=0)


def named(kind: Any) -> Any:
    return lambda images, labels: kind({"images": images, "labels": labels})


CONTAINERS: dict[str, tuple[Any, type]] = {
    "tuple": (lambda images, labels: (images, labels), tuple),
    "list": (lambda images, labels: [images, labels], list),
    "named tuple": (Pair, Pair),
    "dict": (named(dict), dict),
    "ordered": (named(OrderedDict), OrderedDict),
    "defaultdict": (named(lambda items: defaultdict(list, items)), defaultdict),
    "dict subclass": (named(Subclass), Subclass),
    "mapping that is no dict": (named(Encoding), Encoding),
    "read-only view": (named(MappingProxyType), MappingProxyType),
    "mapping with its own constructor": (Frozen, dict),
    "frozen dataclass": (Record, Record),
}
every_container = pytest.mark.parametrize(("build", "kind"), CONTAINERS.values(), ids=CONTAINERS)


@every_container
def test_tensors_are_found_and_replaced_in_every_container(build: Any, kind: type) -> None:
    images, labels = torch.ones(4, 2), torch.arange(4)
    content = build([images, {"name": "a"}], (labels, None))
    assert [id(tensor) for tensor in flat_tensors(content)] == [id(images), id(labels)]
    changed = exchange(content, images, torch.zeros(4, 2))
    assert type(changed) is kind
    assert flat_tensors(changed)[0].sum() == 0
    assert flat_tensors(changed)[1] is labels
    assert flat_tensors(content)[0] is images


@every_container
def test_copies_keep_the_structure_and_share_no_tensor(build: Any, kind: type) -> None:
    content = build(torch.ones(1, requires_grad=True), [torch.ones(2), "name"])
    copy = copied(content)
    assert type(copy) is kind
    flat_tensors(content)[1].zero_()
    assert [tensor.tolist() for tensor in flat_tensors(copy)] == [[1], [1, 1]]
    assert not flat_tensors(copy)[0].requires_grad


@every_container
def test_rows_are_taken_where_the_examples_come_first(build: Any, kind: type) -> None:
    table, scalar, other = torch.arange(12).reshape(4, 3), torch.tensor(1.0), torch.zeros(5)
    taken = rows_of(build([table, "batch"], [scalar, other]), torch.tensor([0, 2]), 4)
    assert type(taken) is kind
    found = flat_tensors(taken)
    assert torch.equal(found[0], table[[0, 2]])
    assert found[1] is scalar
    assert found[2] is other


@every_container
def test_contents_of_one_structure_are_joined(build: Any, kind: type) -> None:
    table, extra = torch.arange(6).reshape(2, 3), torch.ones(4)
    both = joined(build(table, [extra, "a"]), build(table[:1], [extra, "a"]), 2, 1)
    assert type(both) is kind
    assert torch.equal(flat_tensors(both)[0], table[[0, 1, 0]])
    assert torch.equal(flat_tensors(both)[1], extra)


TABLE = torch.arange(6).reshape(2, 3)


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [
        ([TABLE, "a"], [TABLE, "b"], ValueError),
        ([TABLE, 1], [TABLE, 1.0], ValueError),
        ([TABLE, torch.ones(4)], [TABLE, torch.zeros(4)], ValueError),
        ([TABLE], [TABLE, TABLE], ValueError),
        ({"x": TABLE}, {"x": TABLE, "y": TABLE}, ValueError),
        ({"x": TABLE}, TABLE, ValueError),
        (TABLE, TABLE[:, :2], RuntimeError),
    ],
)
def test_contents_that_differ_otherwise_are_not_joined(first: Any, second: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        joined(first, second, 2, 2)


def test_a_default_factory_is_kept() -> None:
    copy = copied(defaultdict(list, {"x": torch.ones(1)}))
    assert copy["missing"] == []


@pytest.mark.parametrize("leaf", [None, "text", b"text", 3, {1, 2}, Record, range(3)])
def test_anything_else_is_a_leaf(leaf: Any) -> None:
    assert flat_tensors(leaf) == []
    assert map_tensors(leaf, Tensor.neg) is leaf
