"""What is kept comes back as it was, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_gengap.monitor.saved_state import StateError, from_primitives, to_primitives


@dataclass
class Part:
    share: float = 0.5
    name: str | None = None


@dataclass
class Counter:
    seen: int = 0
    limit: int = 9

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}


@dataclass
class Owner:
    part: Part | None = None
    counter: Counter = field(default_factory=Counter)
    sizes: dict[str, list[int]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    done: bool = False


OWNER = Owner(Part(0.25, "a"), Counter(3, 7), {"a": [1, 2]}, {"b": torch.ones(2)}, True)
SAVED = {name: to_primitives(getattr(OWNER, name)) for name in vars(OWNER)}


def test_what_is_kept_comes_back():
    again = Owner(**{name: from_primitives(Owner(), name, SAVED) for name in SAVED})
    assert (again.part, again.sizes, again.tensors, again.done) == (OWNER.part, OWNER.sizes, OWNER.tensors, OWNER.done)
    assert again.counter == Counter(3, 9)  # the rest is the present one's
    assert SAVED["counter"] == {"seen": 3}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("part", {"share": "x", "name": None}, "part is damaged"),
        ("part", {"share": 0.1}, "part is damaged"),
        ("part", 3, "part is damaged"),
        ("counter", {"seen": 1.5}, "counter.seen is damaged"),
        ("counter", {"seen": True}, "counter.seen is damaged"),
        ("counter", {}, "counter is damaged"),
        ("sizes", {"a": [1, None]}, "sizes is damaged"),
        ("sizes", [], "sizes is damaged"),
        ("tensors", {"b": 1.0}, "tensors is damaged"),
        ("done", 1, "done is damaged"),
    ],
)
def test_another_type_is_refused(name: str, value: Any, reason: str):
    with pytest.raises(StateError, match=reason):
        from_primitives(Owner(), name, {**SAVED, name: value})


def test_what_is_missing_is_refused():
    with pytest.raises(StateError, match="sizes is missing"):
        from_primitives(Owner(), "sizes", {})
