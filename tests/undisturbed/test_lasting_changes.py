"""What cannot be undone is found on a copy, and the model itself stays whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.undisturbed import find_lasting_changes
from lightning_gengap.undisturbed.lasting_changes import UncopiedError, digests
from tests import networks


class Stateful(nn.Module):
    """A layer with something beside it, which each forward changes."""

    def __init__(self, own: Any, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.linear, self.own, self.change = nn.Linear(2, 2), own, change

    def forward(self, inputs: Tensor) -> Tensor:
        self.change(self.own)
        return self.linear(inputs)


def run(model: nn.Module) -> None:
    model(torch.ones(3, 2)).sum().backward()


def add_one(numbers: Any) -> None:
    numbers[0] += 1


LASTING: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "iterator": (lambda: iter([1, 2, 3]), next),
    "endless count": (itertools.count, next),
    "cycle": (lambda: itertools.cycle([1, 2]), next),
    "array too large to be kept": (lambda: np.zeros(9 * 2**20), add_one),
}


@pytest.mark.filterwarnings("ignore:Pickle, copy, and deepcopy support will be removed:DeprecationWarning")
@pytest.mark.parametrize("kind", LASTING)
def test_what_the_guard_cannot_restore_is_named(kind: str):
    make, change = LASTING[kind]
    model = nn.Sequential(Stateful(make(), change))
    before = digests(model)
    assert find_lasting_changes(model, run) == ["0.own"]
    assert digests(model) == before


HARMLESS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "list": (list, lambda own: own.append(1)),
    "generator": (torch.Generator, lambda own: torch.rand(1, generator=own)),
    "non-leaf": (lambda: torch.ones(2, requires_grad=True) * 2, lambda own: own.sum()),
    "nothing": (lambda: None, lambda own: None),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_nothing_is_named_where_all_is_restored(kind: str):
    make, change = HARMLESS[kind]
    model = nn.Sequential(Stateful(make(), change), nn.BatchNorm1d(2), nn.Dropout())
    before, stream = digests(model), torch.get_rng_state()
    assert find_lasting_changes(model, run) == []
    assert digests(model) == before
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_copied_is_named():
    model = nn.Sequential(Stateful((number for number in range(3)), next))
    with pytest.raises(UncopiedError, match=r"^0\.own cannot be copied \(TypeError: "):
        find_lasting_changes(model, run)
    assert next(model[0].own) == 0


def test_a_file_that_is_written_is_named(tmp_path: Path):
    with (tmp_path / "log").open("w") as file:
        model = Stateful(file, lambda own: own.write("x"))
        assert find_lasting_changes(model, run) == ["own"]


def test_a_measurement_that_fails_says_nothing_of_lasting_changes():
    def fail(own: Any) -> None:
        own.append(1)
        raise OSError("mine")

    model = Stateful([], fail)
    assert find_lasting_changes(model, run) == []
    assert model.own == []


def test_large_models_are_not_copied(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lightning_gengap.undisturbed.lasting_changes.MOST_COPIED", 0)
    called: list[nn.Module] = []
    assert find_lasting_changes(nn.Linear(2, 2), called.append) == []
    assert not called


def test_reading_digests_takes_no_right_from_a_tensor():
    model = nn.BatchNorm1d(2)
    digests(model)
    model.running_mean.resize_(5)


@pytest.mark.parametrize("build", [networks.mlp, networks.cnn_with_batch_norm])
def test_digests_are_equal_for_equal_models_and_see_one_weight(build: Callable[..., nn.Module]):
    one, other = networks.made(build), networks.made(build)
    assert digests(one) == digests(other)
    with torch.no_grad():
        next(iter(other.parameters())).view(-1)[0].add_(1e-6)
    assert sum(digests(one)[name] != digest for name, digest in digests(other).items()) == 1
