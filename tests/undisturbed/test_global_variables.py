"""Global variables that a forward counts on are as before a measurement."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.undisturbed import undisturbed
from tests.undisturbed import tally_elsewhere

CALLS = 0
CACHE: dict[str, Any] = {"calls": 0, "seen": []}
BANK = torch.zeros(4)
LARGE = list(range(100_000))


class Counter:
    """A singleton that is found through its class."""

    only: Counter | None = None
    made = 0

    def __init__(self) -> None:
        self.calls = 0

    @classmethod
    def get(cls) -> Counter:
        if cls.only is None:
            cls.only = cls()
            cls.made += 1
        return cls.only


def count() -> None:
    CACHE["calls"] += 1
    CACHE["seen"].append(len(LARGE))


class Globals(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.local = threading.local()
        self.local.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.note()
        return inputs

    def note(self, box: list[int] = [0]) -> None:  # noqa: B006
        global CALLS
        CALLS += 1
        count()
        Counter.get().calls += 1
        self.local.calls += 1
        box[0] += 1
        with torch.no_grad():
            BANK.add_(1)


def state(module: Globals) -> Any:
    single = None if Counter.only is None else Counter.only.calls
    defaults = Globals.note.__defaults__
    return CALLS, CACHE["calls"], len(CACHE["seen"]), single, Counter.made, module.local.calls, defaults[0][0], BANK[0]


@pytest.mark.parametrize("calls", [0, 2])
def test_what_a_forward_counts_on_globally_is_undone(calls: int) -> None:
    module = Globals()
    for _ in range(calls):
        module(torch.zeros(1))
    before, cache, bank = state(module), CACHE, BANK
    with undisturbed(module):
        module(torch.zeros(1))
        assert state(module) != before
    assert state(module) == before
    assert CACHE is cache
    assert BANK is bank


class Unused(nn.Module):
    """Names no counter in its forward; what else it does is not looked at."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs

    def other(self) -> None:
        CACHE["calls"] += 1


def test_what_a_forward_does_not_name_is_left_alone() -> None:
    module, before = Unused(), CACHE["calls"]
    with undisturbed(module):
        module.other()
    assert CACHE["calls"] == before + 1


class Elsewhere(nn.Module):
    """Counts in another module of the user's, which it has imported."""

    def forward(self, inputs: Tensor) -> Tensor:
        tally_elsewhere.CALLS += 1
        tally_elsewhere.SEEN["calls"] += 1
        return inputs


def test_variables_of_another_module_that_the_forward_names_are_undone() -> None:
    module = Elsewhere()
    tally_elsewhere.CALLS, tally_elsewhere.SEEN["calls"] = 0, 0
    module(torch.zeros(1))
    with undisturbed(module):
        module(torch.zeros(1))
        assert (tally_elsewhere.CALLS, tally_elsewhere.SEEN) == (2, {"calls": 2})
    assert (tally_elsewhere.CALLS, tally_elsewhere.SEEN) == (1, {"calls": 1})
