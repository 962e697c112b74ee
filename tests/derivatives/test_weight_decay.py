from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy

from lightning_gengap.derivatives.gauss_newton import dual_curvature
from lightning_gengap.derivatives.weight_decay import ASSUMED_RIDGE, FLOOR, Ridge, decay_of, ridge_of
from lightning_gengap.linalg.lanczos import shrinkage
from lightning_gengap.linalg.leverage import dense_blocks, kronecker_blocks, output_curvature
from lightning_gengap.measures.curvature.leave_one_out import (
    in_metric,
    last_layer,
    layer_ridge,
    leave_one_out,
    network_leave_one_out,
)
from lightning_gengap.measures.curvature.soft_rank import MOST_PRODUCTS, RIDGES, estimated, one_run, soft_rank
from lightning_gengap.measures.curvature.tic import criterion, tic
from tests import networks
from tests.oracles import curvature as oracles
from tests.probes import probing

COUNT = 20
Make = Callable[[nn.Module], optim.Optimizer]


def small() -> nn.Module:
    return networks.made(lambda: networks.mlp((6,))).double()


def grouped(model: nn.Module, decay: float, other: float, make: Callable[..., Any] = optim.SGD) -> Any:
    """Matrices decay by `decay`, vectors by `other`."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": other}]
    return make(groups, lr=0.01)


def trained_by(make: Make, steps: int = 15) -> tuple[nn.Module, Any, Tensor, Tensor]:
    model = small()
    images = networks.images(COUNT).double()
    targets = networks.mostly_right_targets(model, images)
    optimizer = make(model)
    for step in range(steps):
        rows = torch.arange(COUNT) % 4 == step % 4
        optimizer.zero_grad()
        cross_entropy(model(images[rows]), targets[rows]).backward()
        optimizer.step()
    return model.eval(), optimizer, images, targets


def adamw(model: nn.Module) -> optim.Optimizer:
    return optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.03, betas=(0.8, 0.95))


def flat(ridges: Mapping[str, Tensor], model: nn.Module) -> Tensor:
    """The diagonal of R, in the order of the parameters."""
    return torch.cat([ridges[name].double().expand(p.shape).flatten() for name, p in model.named_parameters()])


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
    model, images, targets = small(), networks.images(COUNT).double(), torch.arange(COUNT) % 4
    optimizer = make(model.parameters(), lr=0.01, weight_decay=3e-4)
    with probing(model, images, targets, optimizers=[LightningOptimizer(optimizer) if wrapped else optimizer]) as probe:
        assert ridge_of(probe) == Ridge(3e-4, assumed=False, metric=None)
        assert probe.notes == []


def test_a_penalty_and_coupled_decay_have_one_minimum() -> None:
    # What "coupled" claims: the decayed step is the step on the loss with the penalty.
    model, images, targets = small(), networks.images(COUNT).double(), torch.arange(COUNT) % 4
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
    model, notes = small(), []
    found = decay_of([grouped(model, 5e-4, other)], model, notes)
    expected = {
        name: 5e-4 if p.ndim > 1 else max(floored, FLOOR * min(5e-4, other or 1))
        for name, p in model.named_parameters()
    }
    assert {name: float(part) for name, part in found.items()} == pytest.approx(expected, rel=1e-12)
    assert notes == []


def second_moments(optimizer: optim.Optimizer, model: nn.Module, beta: float) -> dict[str, Tensor]:
    return {
        name: optimizer.state[parameter]["exp_avg_sq"] / (1 - beta ** float(optimizer.state[parameter]["step"]))
        for name, parameter in model.named_parameters()
    }


def test_adamw_has_the_ridge_of_its_metric() -> None:
    model, optimizer, _, _ = trained_by(adamw)
    notes: list[str] = []
    found = decay_of([optimizer], model, notes)
    for name, moment in second_moments(optimizer, model, 0.95).items():
        torch.testing.assert_close(found[name], 0.03 * (moment.sqrt() + 1e-8), rtol=1e-12, atol=0)
    assert notes == []


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
    found = decay_of([optimizer], model, [])
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
    found = decay_of([optimizer], model, [])
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        moment = state["max_exp_avg_sq" if kind == "amsgrad" else "exp_avg_sq"]
        expected = 0.01 * ((moment / (1 - 0.95 ** float(state["step"]))).sqrt() + 1e-8)
        torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=0)


def test_groups_of_adamw_without_decay_have_the_floor_in_its_metric() -> None:
    model, optimizer, _, _ = trained_by(lambda model: grouped(model, 0.05, 0.0, optim.AdamW))
    found = decay_of([optimizer], model, [])
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
    model, images, targets = small(), networks.images(COUNT).double(), torch.arange(COUNT) % 4
    with probing(model, images, targets, optimizers=STRANGE[why](model)) as probe:
        assert ridge_of(probe) == Ridge(ASSUMED_RIDGE, assumed=True, metric=None)
        (note,) = probe.notes
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
    model, images, targets = small(), networks.images(COUNT).double(), torch.arange(COUNT) % 4
    with probing(model, images, targets, optimizers=make(model)) as probe:
        assert ridge_of(probe) == Ridge(ASSUMED_RIDGE, assumed=True, metric=None)
        assert probe.notes == []


def test_before_the_first_step_of_adamw_the_ridge_is_assumed() -> None:
    model, optimizer, images, targets = trained_by(adamw, steps=0)
    with probing(model, images, targets, optimizers=[optimizer]) as probe:
        assert ridge_of(probe) == Ridge(ASSUMED_RIDGE, assumed=True, metric=None)
    assert len(optimizer.state) == 0


def test_diverged_moments_are_absent_with_a_note() -> None:
    model, optimizer, images, targets = trained_by(adamw)
    next(iter(optimizer.state.values()))["exp_avg_sq"].fill_(math.inf)
    with probing(model, images, targets, optimizers=[optimizer]) as probe:
        assert ridge_of(probe).assumed
        assert "not finite" in probe.notes[0]


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
    notes: list[str] = []
    found = decay_of([optim.SGD(model.parameters(), 0.1, weight_decay=1e-3)], model, notes)
    assert set(found) == {"2.weight", "2.bias", "3.weight", "3.bias"}
    assert notes == []


OPTIMIZERS: dict[str, Make] = {
    "groups": lambda model: grouped(model, 5e-3, 0.0),
    "adamw": adamw,
    "adamw groups": lambda model: grouped(model, 0.05, 0.0, optim.AdamW),
}
every_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS)


def task(kind: str) -> tuple[nn.Module, Any, Tensor, Tensor, Tensor]:
    """A trained network, its optimizer, data, and the diagonal of R."""
    model, optimizer, images, targets = trained_by(OPTIMIZERS[kind])
    found = decay_of([optimizer], model, [])
    assert found is not None
    return model, optimizer, images, targets, flat(found, model)


@every_optimizer
def test_products_in_the_metric_are_those_of_the_dense_matrix(kind: str) -> None:
    model, optimizer, images, targets, diagonal = task(kind)
    with probing(model, images, targets, chunk=7, optimizers=[optimizer]) as probe:
        ridge, curvature = ridge_of(probe), dual_curvature(probe)
    assert ridge.value == pytest.approx(float(diagonal.log().mean().exp()), rel=1e-12)
    rows = oracles.jacobian(model, images)
    p = model(images).detach().softmax(dim=1)
    half = torch.cat([oracles.root(q).T @ j for q, j in zip(p, rows, strict=True)])
    dual = half @ (half / (diagonal / ridge.value)).T / COUNT
    vector = torch.randn(len(dual), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product = curvature.within(ridge.metric).product(vector)
    torch.testing.assert_close(product, dual @ vector, rtol=1e-9, atol=1e-12)
    primal = oracles.soft_rank_at(oracles.gauss_newton(model, images), diagonal)
    assert oracles.soft_rank(dual, ridge.value) == pytest.approx(primal, rel=1e-9)


@every_optimizer
def test_the_mean_soft_rank_over_starts_is_the_dense_value(kind: str) -> None:
    model, optimizer, images, targets, diagonal = task(kind)
    exact = oracles.soft_rank_at(oracles.gauss_newton(model, images), diagonal)
    with probing(model, images, targets, optimizers=[optimizer]) as probe:
        ridge, curvature = ridge_of(probe), dual_curvature(probe)
        own = curvature.within(ridge.metric)
        found = torch.tensor([estimated(own, ridge.value, seed).soft_rank(ridge.value).middle for seed in range(16)])
        assert soft_rank(probe)["curvature/soft_rank"] == pytest.approx(float(found[0]), rel=1e-6)
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / 4 + 0.02 * exact
    assert found.std() > 0


@every_optimizer
def test_the_mean_criterion_over_signs_is_the_dense_value(kind: str) -> None:
    model, optimizer, images, targets, diagonal = task(kind)
    exact = oracles.tic(model, images, targets, diagonal)
    with probing(model, images, targets, optimizers=[optimizer]) as probe:
        ridge, curvature = ridge_of(probe), dual_curvature(probe)
        found = torch.tensor([criterion(curvature, ridge, seed) for seed in range(40)])
        assert tic(probe)["curvature/tic"] == pytest.approx(float(found[1]), rel=1e-5)
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / 40**0.5 + 0.02 * exact


@every_optimizer
def test_leave_one_out_of_network_and_last_layer_take_the_same_ridge(kind: str) -> None:
    model, optimizer, images, targets, diagonal = task(kind)
    with probing(model, images, targets, chunk=7, optimizers=[optimizer]) as probe:
        network, last = network_leave_one_out(probe), leave_one_out(probe)
        ridge = ridge_of(probe)
        scaled = in_metric(oracles.jacobian(model, images).flatten(0, 1), probe, ridge)
    logits = model(images).detach()
    blocks = oracles.leverage_blocks(model, images, diagonal)
    assert network["loo/network/loss_gap"] == pytest.approx(loss_gap(logits, blocks, targets), rel=1e-5)
    inverse = torch.linalg.inv(scaled.T @ whitening(logits) @ scaled / COUNT + ridge.value * torch.eye(scaled.shape[1]))
    direct = torch.stack([j @ inverse @ j.T for j in scaled.reshape(COUNT, networks.CLASSES, -1)]) / COUNT
    torch.testing.assert_close(direct, blocks, rtol=1e-6, atol=1e-9)
    for parameter in model[1].parameters():
        parameter.requires_grad_(False)
    own = diagonal[-(6 * 4 + 4) :]
    of_layer = oracles.leverage_blocks(model, images, own)
    assert last["loo/last_layer/loss_gap"] == pytest.approx(loss_gap(logits, of_layer, targets), rel=1e-6)


def whitening(logits: Tensor) -> Tensor:
    return torch.block_diag(*oracles.output_curvature(logits))


def loss_gap(logits: Tensor, blocks: Tensor, targets: Tensor) -> float:
    """Rise of the loss by one leverage-corrected Newton step per sample, spelled out."""
    left = []
    for f, q, c, y in zip(logits, blocks, oracles.output_curvature(logits), targets, strict=True):
        residual = f.softmax(0) - torch.eye(len(f)).double()[y]
        left.append(f + q @ torch.linalg.inv(torch.eye(len(f)).double() - c @ q) @ residual)
    floored = torch.stack(left).log_softmax(dim=1).clamp(min=math.log(1e-10))
    return float(torch.nn.functional.nll_loss(floored, targets) - cross_entropy(logits, targets))


def test_the_kronecker_form_takes_a_ridge_that_is_a_product() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30, 5, generator=generator).double()
    same = output_curvature(torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)).expand(30, -1, -1)
    per_class, per_input = torch.rand(3, 1, generator=generator).double(), torch.rand(5, generator=generator).double()
    ridge = 1e-2 * (per_class + 0.1) * (per_input + 0.1)
    torch.testing.assert_close(
        kronecker_blocks(features, same, ridge), dense_blocks(features, same, ridge), rtol=1e-9, atol=1e-12
    )
    even = torch.full((3, 5), 1e-2, dtype=torch.float64)
    torch.testing.assert_close(
        kronecker_blocks(features, same, even), kronecker_blocks(features, same, 1e-2), rtol=1e-9, atol=1e-12
    )


def test_the_ridge_of_a_layer_has_a_column_for_its_bias_and_the_mean_for_what_is_unknown() -> None:
    model, optimizer, images, targets, diagonal = task("adamw")
    with probing(model, images, targets, optimizers=[optimizer]) as probe:
        layer = last_layer(probe)
        found = layer_ridge(probe, layer)
        strangers = layer_ridge(probe, layer._replace(parameters=("", "")))
        assert strangers == pytest.approx(ridge_of(probe).value, rel=1e-12)
    weight, bias = diagonal[-28:-4].reshape(4, 6), diagonal[-4:]
    torch.testing.assert_close(found, torch.cat([weight, bias[:, None]], dim=1), rtol=1e-9, atol=0)


def test_a_varying_ridge_adds_keys_and_changes_no_value_of_the_plain_metric() -> None:
    model, optimizer, images, targets, diagonal = task("adamw")
    with probing(model, images, targets) as probe:
        plain = soft_rank(probe)
    with probing(model, images, targets, optimizers=[optimizer]) as probe:
        values = soft_rank(probe)
    assert plain.keys() == values.keys()
    changed = {key for key in values if values[key] != plain[key]}
    of_ridge = {"soft_rank", "soft_rank_lower", "soft_rank_upper", "lambda", "lambda_assumed", "lambda_varies"}
    assert changed == {f"curvature/{name}" for name in (*of_ridge, "products")}
    assert values["curvature/lambda"] == pytest.approx(float(diagonal.log().mean().exp()), rel=1e-9)
    assert (values["curvature/lambda_varies"], values["curvature/lambda_assumed"]) == (1, 0)
    assert plain["curvature/products"] < values["curvature/products"] <= 4 * MOST_PRODUCTS
    curve = [values[f"curvature/soft_rank_{name}"] for name in RIDGES]
    assert curve == sorted(curve, reverse=True)


def test_a_run_in_the_metric_stops_at_the_tolerance() -> None:
    model, optimizer, images, targets, _ = task("groups")
    with probing(model, images, targets, optimizers=[optimizer]) as probe:
        ridge, curvature = ridge_of(probe), dual_curvature(probe).within(ridge_of(probe).metric)
    run = one_run(curvature, curvature.random_signs(torch.Generator().manual_seed(0)), ridge.value)
    assert len(run) < MOST_PRODUCTS
    assert shrinkage(run, ridge.value).half_width <= 0.02


def test_half_precision_moments_are_read_in_single_precision() -> None:
    model, optimizer, _, _ = trained_by(adamw)
    for state in optimizer.state.values():
        state["exp_avg_sq"] = state["exp_avg_sq"].bfloat16()
    found = decay_of([optimizer], model, [])
    assert all(part.dtype == torch.float32 for part in found.values())
