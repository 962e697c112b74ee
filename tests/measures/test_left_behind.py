"""Twenty measurements of each measure leave no tensor, object, hook, file or memory behind."""

from __future__ import annotations

import warnings
from contextlib import suppress

import pytest
import torch
from torch import nn

from lightning_gengap import measure
from lightning_gengap.errors import MeasureError
from lightning_gengap.measures import MEASURES
from lightning_gengap.network.probe import copy_state
from tests.left_behind import Alive, alive

TIMES = 20
MEBI = 2**20


def task() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A network that has fitted its samples somewhat, of layers that every measure is defined for."""
    torch.manual_seed(0)
    targets = torch.arange(20) % 2
    images = torch.randn(20, 1, 6, 6) + 2.0 * targets[:, None, None, None]
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval(), [(images, targets)]


def counted(found: Alive) -> Alive:
    return found._replace(objects=0, resident=0)


@pytest.mark.parametrize("name", MEASURES)
def test_nothing_is_left_behind(name: str) -> None:
    model, data = task()
    start = copy_state(model)

    def taken() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is absent is said at every call
            measure(model, data, [name], initial_state=start)

    for _ in range(3):
        taken()  # what torch itself keeps from its first call on
    before = alive(model)
    for _ in range(TIMES):
        taken()
    after = alive(model)
    assert counted(after) == counted(before)
    assert after.objects - before.objects < TIMES  # the interpreter's own
    assert after.resident - before.resident < 16 * MEBI


def test_a_failure_leaves_nothing_behind_either() -> None:
    """An operation that fails in the middle of a measurement, with graphs half built."""

    class Failing(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled() and torch.autograd.forward_ad._current_level >= 0:
                raise NotImplementedError("no forward mode")
            return inputs.tanh()

    model, data = task()
    model.append(Failing())
    for name in ("soft_rank", "hessian", "network_leave_one_out"):
        for _ in range(3):
            _taken_or_refused(model, data, name)
        before = alive(model)
        for _ in range(3):
            _taken_or_refused(model, data, name)
        assert counted(alive(model)) == counted(before)


def _taken_or_refused(model: nn.Module, data: object, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(MeasureError):
            measure(model, data, [name])
