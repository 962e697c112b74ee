from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy

from lightning_gengap.derivatives.weight_decay import ASSUMED_RIDGE, FLOOR, Ridge, decay_of, ridge_of
from lightning_gengap.measures.curvature.soft_rank import soft_rank
from tests.derivatives.optimizers import COUNT, adamw, grouped, trained_by
from tests.derivatives.tasks import Task, small_mlp, task
from tests.probes import probing

ASSUMED = Ridge(ASSUMED_RIDGE, assumed=True, metric=None)


def fresh() -> Task:
    return task(small_mlp, COUNT)


def read(optimizer: Any, model: nn.Module) -> dict[str, Tensor]:
    """The ridges, of which nothing has to be said."""
    notes: list[str] = []
    found = decay_of([optimizer], model, notes)
    assert notes == []
    assert found is not None
    return found


def ridge_with(optimizers: list[Any], model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Ridge, list[str]]:
    """The ridge of a probe, and what is said of it."""
    with probing(model, images, targets, optimizers=optimizers) as probe:
        return ridge_of(probe), probe.notes


COUPLED: list[Callable[..., Any]] = [
    optim.SGD,
    optim.Adam,
    optim.Adamax,
    optim.NAdam,
    optim.RAdam,
    optim.Adadelta,
    optim.Adagrad,
    optim.RMSprop,
]


@pytest.mark.parametrize("make", COUPLED)
@pytest.mark.parametrize("wrapped", [False, True])
def test_coupled_decay_is_the_ridge(make: Callable[..., Any], wrapped: bool) -> None:
    model, images, targets = fresh()
    optimizer = make(model.parameters(), lr=0.01, weight_decay=3e-4)
    found = ridge_with([LightningOptimizer(optimizer) if wrapped else optimizer], model, images, targets)
    assert found == (Ridge(3e-4, assumed=False, metric=None), [])


def test_a_penalty_and_coupled_decay_have_one_minimum() -> None:
    # What "coupled" claims: the decayed step is the step on the loss with the penalty.
    model, images, targets = fresh()
    twin = copy.deepcopy(model)
    decayed, plain = optim.SGD(model.parameters(), 0.1, weight_decay=0.02), optim.SGD(twin.parameters(), 0.1)
    for _ in range(5):
        decayed.zero_grad()
        cross_entropy(model(images), targets).backward()
        decayed.step()
        plain.zero_grad()
        penalty = 0.5 * 0.02 * sum(parameter.square().sum() for parameter in twin.parameters())
        (cross_entropy(twin(images), targets) + penalty).backward()
        plain.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("other", "floored"), [(1e-2, 1e-2), (0.0, FLOOR * 5e-4), (1e-9, 1e-9)])
def test_groups_have_their_own_ridge_and_those_without_a_floor(other: float, floored: float) -> None:
    model, _, _ = fresh()
    found = read(grouped(model, 5e-4, other), model)
    expected = {
        name: 5e-4 if p.ndim > 1 else max(floored, FLOOR * min(5e-4, other or 1))
        for name, p in model.named_parameters()
    }
    assert {name: float(part) for name, part in found.items()} == pytest.approx(expected, rel=1e-12)


def second_moments(optimizer: optim.Optimizer, model: nn.Module, beta: float) -> dict[str, Tensor]:
    return {
        name: optimizer.state[parameter]["exp_avg_sq"] / (1 - beta ** float(optimizer.state[parameter]["step"]))
        for name, parameter in model.named_parameters()
    }


def test_adamw_has_the_ridge_of_its_metric() -> None:
    model, optimizer, _, _ = trained_by(adamw)
    found = read(optimizer, model)
    for name, moment in second_moments(optimizer, model, 0.95).items():
        torch.testing.assert_close(found[name], 0.03 * (moment.sqrt() + 1e-8), rtol=1e-12, atol=0)


def test_the_metric_is_what_a_step_divides_by() -> None:
    # Without momentum a step moves by lr (g / D + decay w), whose zero is that of g + decay D w.
    def make(model: nn.Module) -> optim.Optimizer:
        return optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.5, betas=(0.0, 0.9))

    model, optimizer, images, targets = trained_by(make)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.zero_grad()
    cross_entropy(model(images), targets).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    optimizer.step()
    found = read(optimizer, model)
    rows = zip(model.named_parameters(), before, gradients, strict=True)
    for (name, parameter), start, gradient in rows:
        scale = found[name] / 0.5
        torch.testing.assert_close(start - parameter, 1e-3 * (gradient / scale + 0.5 * start), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["amsgrad", "flag", "nadam"])
def test_kin_of_adamw_have_its_metric(kind: str) -> None:
    def make(model: nn.Module) -> optim.Optimizer:
        if kind == "amsgrad":
            return optim.AdamW(model.parameters(), lr=0.01, amsgrad=True, betas=(0.9, 0.95))
        maker = optim.Adam if kind == "flag" else optim.NAdam
        try:
            return maker(model.parameters(), lr=0.01, weight_decay=0.01, betas=(0.9, 0.95), decoupled_weight_decay=True)
        except TypeError:
            pytest.skip("this torch has no such argument")

    model, optimizer, _, _ = trained_by(make)
    found = read(optimizer, model)
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        moment = state["max_exp_avg_sq" if kind == "amsgrad" else "exp_avg_sq"]
        expected = 0.01 * ((moment / (1 - 0.95 ** float(state["step"]))).sqrt() + 1e-8)
        torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=0)


def test_groups_of_adamw_without_decay_have_the_floor_in_its_metric() -> None:
    model, optimizer, _, _ = trained_by(lambda model: grouped(model, 0.05, 0.0, optim.AdamW))
    found = read(optimizer, model)
    for name, moment in second_moments(optimizer, model, 0.999).items():
        decay = FLOOR * 0.05 if moment.ndim == 1 else 0.05
        torch.testing.assert_close(found[name], decay * (moment.sqrt() + 1e-8), rtol=1e-9, atol=0)


class Stranger(optim.SGD):
    """A subclass, which may step in any way."""


class Broken:
    """Something in the place of an optimizer."""

    param_groups = (7,)


def outside(model: nn.Module) -> optim.Optimizer:
    return optim.SGD(list(model.parameters())[:-1], 0.1, weight_decay=1e-3)


STRANGE: dict[str, Callable[[nn.Module], list[Any]]] = {
    "of Stranger acts": lambda model: [Stranger(model.parameters(), 0.1, weight_decay=1e-3)],
    "AttributeError": lambda model: [Broken()],
    "there are 2 optimizers": lambda model: [
        optim.SGD([parameter], 0.1, weight_decay=1e-3) for parameter in list(model.parameters())[:2]
    ],
    "1 trained parameters are not in the optimizer": lambda model: [outside(model)],
}


@pytest.mark.parametrize("why", STRANGE)
def test_what_cannot_be_known_is_assumed_with_a_note(why: str) -> None:
    model, images, targets = fresh()
    ridge, (note,) = ridge_with(STRANGE[why](model), model, images, targets)
    assert ridge == ASSUMED
    assert why in note
    assert "absent" in note


@pytest.mark.parametrize(
    "make",
    [
        lambda model: [],
        lambda model: [optim.SGD(model.parameters(), 0.1)],
        lambda model: [optim.LBFGS(model.parameters())],
        lambda model: [Stranger(model.parameters(), 0.1)],
        lambda model: [optim.SGD([parameter], 0.1) for parameter in model.parameters()],
    ],
)
def test_without_decay_the_ridge_is_assumed_and_nothing_said(make: Callable[[nn.Module], list[Any]]) -> None:
    model, images, targets = fresh()
    assert ridge_with(make(model), model, images, targets) == (ASSUMED, [])


def test_before_the_first_step_of_adamw_the_ridge_is_assumed() -> None:
    model, optimizer, images, targets = trained_by(adamw, steps=0)
    assert ridge_with([optimizer], model, images, targets)[0] == ASSUMED
    assert len(optimizer.state) == 0


def test_diverged_moments_are_absent_with_a_note() -> None:
    model, optimizer, images, targets = trained_by(adamw)
    next(iter(optimizer.state.values()))["exp_avg_sq"].fill_(math.inf)
    ridge, (note,) = ridge_with([optimizer], model, images, targets)
    assert ridge.assumed
    assert "not finite" in note


def test_the_optimizer_is_only_read() -> None:
    model, optimizer, images, targets = trained_by(adamw)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0.0})
    before = copy.deepcopy(optimizer.state_dict())
    with probing(model, images, targets, optimizers=[optimizer]) as probe:
        soft_rank(probe)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["state"].keys() == before["state"].keys()
    for key, state in before["state"].items():
        assert all(torch.equal(torch.as_tensor(after["state"][key][name]), value) for name, value in state.items())


def test_shared_and_frozen_parameters_are_met_once_or_not_at_all() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Linear(5, 5), nn.Linear(5, 4))
    model[1].requires_grad_(False)
    model.again = model[2]
    found = read(optim.SGD(model.parameters(), 0.1, weight_decay=1e-3), model)
    assert set(found) == {"2.weight", "2.bias", "3.weight", "3.bias"}


def test_half_precision_moments_are_read_in_single_precision() -> None:
    model, optimizer, _, _ = trained_by(adamw)
    for state in optimizer.state.values():
        state["exp_avg_sq"] = state["exp_avg_sq"].bfloat16()
    found = read(optimizer, model)
    assert all(part.dtype == torch.float32 for part in found.values())
