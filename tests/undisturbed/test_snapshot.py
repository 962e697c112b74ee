"""Objects that a model reaches come back: the same objects with the same content."""

from __future__ import annotations

import enum
import functools
import io
import random
import threading
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gengap.undisturbed import state_kept
from lightning_gengap.undisturbed.snapshot import Snapshot


class Slotted:
    __slots__ = ("__private", "late", "number")

    def __init__(self) -> None:
        self.number, self.__private = 1, 2

    def change(self) -> None:
        self.number, self.__private, self.late = 5, 6, 7

    @property
    def content(self) -> Any:
        return self.number, self.__private, hasattr(self, "late")


class Bound:
    def __init__(self) -> None:
        self.calls = 0

    def call(self) -> None:
        self.calls += 1


def closure() -> tuple[Callable[[], int], Callable[[], int]]:
    count, held = 0, [0]

    def step() -> int:
        nonlocal count
        count += 1
        held[0] += 1
        return count

    return step, lambda: count + held[0]


class Named(dict[str, int]):
    """A dictionary with attributes."""


def named() -> Named:
    own = Named(a=1)
    own.extra = [1]  # type: ignore[attr-defined]
    return own


class Referred:
    """Referred to weakly."""


class Level(enum.Enum):
    LOW = 1

    def __init__(self, value: int) -> None:
        self.seen: list[int] = []


def noted(number: int) -> int:
    return number


Change = Callable[[Any], Any]

OBJECTS: dict[str, tuple[Callable[[], Any], Change, Change]] = {
    "dict": (lambda: {"a": 1, "b": [2]}, lambda own: (own.pop("a"), own["b"].append(3)), repr),
    "order of a dict": (lambda: {"a": 1, "b": 2}, lambda own: own.update(a=own.pop("a")), lambda own: list(own)),
    "ordered dict": (lambda: OrderedDict(a=1, b=2), lambda own: own.move_to_end("a"), lambda own: list(own.items())),
    "default dict": (lambda: defaultdict(list), lambda own: own[3].append(1), repr),
    "counter": (lambda: Counter("ab"), lambda own: own.update("aa"), repr),
    "dict with attributes": (named, lambda own: own.extra.append(2), lambda own: repr((dict(own), own.extra))),
    "list": (lambda: [1, 2, 3], lambda own: own.reverse(), repr),
    "empty list": (list, lambda own: own.append(1), repr),
    "deque": (lambda: deque([1, 2], maxlen=2), lambda own: own.append(3), repr),
    "set": (lambda: {1, 2}, lambda own: own.discard(1), repr),
    "tuple of lists": (lambda: ([1],), lambda own: own[0].append(2), repr),
    "bytearray": (lambda: bytearray(b"ab"), lambda own: own.extend(b"c"), repr),
    "array": (lambda: array("d", [1.0]), lambda own: own.append(2.0), repr),
    "numbers": (lambda: np.ones(3), lambda own: own.fill(2), repr),
    "objects in an array": (lambda: np.array([[1], None], dtype=object), lambda own: own[0].append(2), repr),
    "numbers, resized": (lambda: np.ones(3), lambda own: own.resize(5, refcheck=False), repr),
    "torch generator": (
        torch.Generator,
        lambda own: torch.rand(1, generator=own),
        lambda own: own.get_state().tolist(),
    ),
    "NumPy generator": (
        lambda: np.random.default_rng(0),
        lambda own: own.random(),
        lambda own: repr(own.bit_generator.state),
    ),
    "NumPy bits": (lambda: np.random.PCG64(0), lambda own: own.random_raw(), lambda own: repr(own.state)),
    "old NumPy generator": (
        lambda: np.random.RandomState(0),
        lambda own: own.rand(),
        lambda own: repr(own.get_state()),
    ),
    "Python generator": (lambda: random.Random(0), lambda own: own.random(), lambda own: own.getstate()),
    "namespace": (lambda: SimpleNamespace(a=1), lambda own: setattr(own, "b", 2), repr),
    "slots": (Slotted, Slotted.change, lambda own: own.content),
    "bound method": (lambda: Bound().call, lambda own: own(), lambda own: own.__self__.calls),
    "partial": (
        lambda: functools.partial(lambda held: held.append(1), []),
        lambda own: own(),
        lambda own: repr(own.args),
    ),
    "function with a default": (
        lambda: lambda held=[]: held.append(1),
        lambda own: own(),
        lambda own: repr(own.__defaults__),
    ),
    "closure": (closure, lambda own: own[0](), lambda own: own[1]()),
    "text in memory": (
        lambda: io.StringIO("some text"),
        lambda own: own.write("other words"),
        lambda own: (own.getvalue(), own.tell()),
    ),
    "bytes in memory": (
        lambda: io.BytesIO(b"ab"),
        lambda own: (own.seek(2), own.write(b"cd")),
        lambda own: (own.getvalue(), own.tell()),
    ),
    "weak keys": (
        lambda: WeakKeyDictionary({Referred: 0}),
        lambda own: own.update({Referred: 1}),
        lambda own: list(own.values()),
    ),
    "weak set": (WeakSet, lambda own: own.add(Referred), len),
    "enumeration": (lambda: Level.LOW, lambda own: own.seen.append(1), lambda own: len(own.seen)),
    "cache of results": (lambda: functools.lru_cache(noted), lambda own: own(1), lambda own: own.cache_info()),
    "hidden module": (
        lambda: [nn.BatchNorm1d(2)],
        lambda own: own[0](torch.ones(3, 2)),
        lambda own: repr(own[0].state_dict()),
    ),
}


class Owner(nn.Module):
    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own


@pytest.mark.parametrize("kind", OBJECTS)
def test_each_kind_of_object_is_restored_in_place(kind: str):
    make, change, content = OBJECTS[kind]
    model = nn.Sequential(nn.Linear(1, 1), Owner(make()))
    own, before = model[1].own, content(model[1].own)
    with state_kept(model):
        change(own)
        assert content(own) != before
    assert model[1].own is own
    assert content(own) == before


def test_attributes_made_replaced_and_deleted_are_as_before():
    model = Owner(held := [1])
    model.register_buffer("mask", torch.ones(1))
    model.part = nn.Linear(1, 1)
    mask, part = model.mask, model.part
    with state_kept(model):
        model.own, model.late, model.other = 3, 4, nn.Linear(1, 1)
        model.register_buffer("average", torch.ones(1))
        del model.mask, model.part
        model.register_forward_hook(lambda *_: None)
    assert model.own is held
    assert (model.mask is mask, model.part is part) == (True, True)
    assert not any(hasattr(model, name) for name in ("late", "other", "average"))
    assert not model._forward_hooks


def test_notes_on_a_parameter_are_restored():
    model = nn.Linear(1, 1)
    model.weight.seen = [1]
    with state_kept(model):
        model.weight.seen.append(2)
        model.weight.late = 1
    assert vars(model.weight) == {"seen": [1]}


def test_data_of_a_class_are_restored():
    class Counts(nn.Module):
        calls, bank = 0, []

    model = Counts()
    with state_kept(model):
        Counts.calls += 1
        Counts.bank.append(1)
        Counts.late = 1
    assert (Counts.calls, Counts.bank, hasattr(Counts, "late")) == (0, [], False)


def test_a_cache_that_had_entries_keeps_ours():
    cache = functools.lru_cache(noted)
    cache(1)
    with state_kept(Owner(cache)):
        cache(2)
    assert cache.cache_info().currsize == 2


class Tracked(torch.Tensor):
    operations = 0

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Tracked.operations += 1
        return super().__torch_function__(function, types, args, kwargs or {})


def test_data_of_a_class_of_tensors_are_restored():
    model = Owner(torch.ones(1).as_subclass(Tracked))
    before = Tracked.operations
    with state_kept(model):
        model.own + 1
        assert Tracked.operations > before
    assert Tracked.operations == before


def test_what_global_hooks_remember_is_restored():
    seen: dict[str, int] = {}

    def remember(module: nn.Module, *_: Any) -> None:
        seen[type(module).__name__] = seen.get(type(module).__name__, 0) + 1

    model = nn.Linear(1, 1)
    handles = [
        torch.nn.modules.module.register_module_forward_hook(remember),
        torch.nn.modules.module.register_module_module_registration_hook(remember),
    ]
    try:
        model(torch.ones(1))
        with state_kept(model):
            nn.Sequential(model)(torch.ones(1))
            assert seen == {"Linear": 2, "Sequential": 2}
        assert seen == {"Linear": 1}
    finally:
        for handle in handles:
            handle.remove()


def test_a_circle_of_objects_and_a_deep_chain_are_looked_into():
    model = Owner([])
    model.own.append([model, model.own])
    deep: list[Any] = [0]
    for _ in range(5000):
        deep = [deep]
    model.deep, innermost = deep, deep
    while isinstance(innermost[0], list):
        innermost = innermost[0]
    with state_kept(model):
        innermost[0] = 1
    assert innermost == [0]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_module_is_restored_with_its_parts():
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.mean = 0, torch.zeros(1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.mean = self.mean + inputs.mean()
            return inputs

    model = torch.jit.script(nn.Sequential(Part(), nn.BatchNorm1d(2)))
    with state_kept(model):
        model(torch.ones(3, 2))
        model.eval()
    part, norm = model.children()
    assert (part.calls, part.mean.item(), int(norm.num_batches_tracked), norm.training) == (0, 0.0, 0, True)


def test_what_is_not_the_models_is_left_alone(tmp_path: Path):
    class Shared:
        def __init__(self) -> None:
            self.lock, self.queue = threading.Lock(), [1]

    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
    path = tmp_path / "text"
    path.write_text("some text")
    with path.open() as read, path.open("a") as appended:
        model = Owner([Shared(), optimizer, read, appended])
        with state_kept(model):
            model.own[0].queue.append(2)
            optimizer.param_groups[0]["lr"] = 0.2
            read.read(2)
            appended.write("more")
        assert read.tell() == 0  # what only reads is set back
        assert appended.tell() == len("some textmore")
    assert model.own[0].queue == [1, 2]
    assert optimizer.param_groups[0]["lr"] == 0.2


def test_only_large_containers_are_not_looked_into():
    model = Owner([[0] for _ in range(10_001)])
    with state_kept(model):
        model.own[0].append(1)
        model.own.pop()
    assert len(model.own) == 10_001
    assert model.own[0] == [0, 1]


class Unreadable:
    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise OSError("no attributes today")


def test_an_object_that_cannot_be_read_does_not_keep_others_from_being_restored():
    model = Owner([Unreadable(), [1]])
    with state_kept(model):
        model.own[1].append(2)
    assert model.own[1] == [1]


def test_plain_modules_take_few_records():
    """The cost of a snapshot is in proportion to its records."""
    assert len(Snapshot(nn.Sequential(*[nn.Linear(2, 2) for _ in range(50)]), copies=False)._records) < 51 * 4 + 10
