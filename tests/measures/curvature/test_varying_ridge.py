"""The curvature measures where the ridge differs between parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy

from lightning_gengap.derivatives.gauss_newton import dual_curvature
from lightning_gengap.derivatives.weight_decay import decay_of, ridge_of
from lightning_gengap.measures.curvature.lanczos_runs import MOST_PRODUCTS, estimated
from lightning_gengap.measures.curvature.last_layer import last_layer, layer_ridge
from lightning_gengap.measures.curvature.leave_one_out import leave_one_out
from lightning_gengap.measures.curvature.network_leave_one_out import in_metric, network_leave_one_out
from lightning_gengap.measures.curvature.soft_rank import RIDGES, soft_rank
from lightning_gengap.measures.curvature.tic import criterion, tic
from tests import networks
from tests.derivatives.optimizers import COUNT, Make, adamw, grouped, trained_by
from tests.oracles import curvature as oracles
from tests.probes import measured, probing


def flat(ridges: Mapping[str, Tensor], model: nn.Module) -> Tensor:
    """The diagonal of R, in the order of the parameters."""
    return torch.cat([ridges[name].double().expand(p.shape).flatten() for name, p in model.named_parameters()])


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
    half = oracles.half(model, images)
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


def test_the_ridge_of_a_layer_has_a_column_for_its_bias() -> None:
    model, optimizer, images, targets, diagonal = task("adamw")
    with probing(model, images, targets, optimizers=[optimizer]) as probe:
        layer = last_layer(probe)
        found = layer_ridge(probe, layer)
    weight, bias = diagonal[-28:-4].reshape(4, 6), diagonal[-4:]
    torch.testing.assert_close(found, torch.cat([weight, bias[:, None]], dim=1), rtol=1e-9, atol=0)


def test_a_varying_ridge_adds_keys_and_changes_no_value_of_the_plain_metric() -> None:
    model, optimizer, images, targets, diagonal = task("adamw")
    plain = measured("soft_rank", model, images, targets).values
    values = measured("soft_rank", model, images, targets, optimizers=[optimizer]).values
    assert plain.keys() == values.keys()
    changed = {key for key in values if values[key] != plain[key]}
    of_ridge = {"soft_rank", "soft_rank_lower", "soft_rank_upper", "lambda", "lambda_assumed", "lambda_varies"}
    assert changed == {f"curvature/{name}" for name in (*of_ridge, "products")}
    assert values["curvature/lambda"] == pytest.approx(float(diagonal.log().mean().exp()), rel=1e-9)
    assert (values["curvature/lambda_varies"], values["curvature/lambda_assumed"]) == (1, 0)
    assert plain["curvature/products"] < values["curvature/products"] <= 4 * MOST_PRODUCTS
    curve = [values[f"curvature/soft_rank_{name}"] for name in RIDGES]
    assert curve == sorted(curve, reverse=True)
