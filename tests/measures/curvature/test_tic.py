from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.derivatives.gauss_newton import dual_curvature
from lightning_gengap.linalg.lanczos import shrinkage
from lightning_gengap.measures.curvature.soft_rank import one_run
from lightning_gengap.measures.curvature.tic import tic
from tests import networks
from tests.derivatives.tasks import small_mlp
from tests.derivatives.tasks import task as small_task
from tests.oracles import curvature as oracles
from tests.probes import measured, probing

COUNT = 20
RIDGE = 1e-2


def task(scale: float = 1.0) -> tuple[nn.Module, Tensor, Tensor]:
    """A fifth of the labels is wrong; a larger scale makes the mistakes confident."""
    model, images, targets = small_task(small_mlp, COUNT, scale)
    with torch.no_grad():
        model[3].bias.mul_(scale)
    return model, images, targets


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_mean_over_signs_is_the_dense_value(scale: float) -> None:
    model, images, targets = task(scale)
    exact = oracles.tic(model, images, targets, RIDGE)
    with probing(model, images, targets) as probe:
        curvature = dual_curvature(probe)
    found = []
    for seed in range(40):
        start = curvature.signed_residuals(torch.Generator().manual_seed(seed))
        found.append(shrinkage(one_run(curvature, start, RIDGE), RIDGE).middle / COUNT)
    values = torch.tensor(found)
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / 40**0.5 + 0.02 * exact


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_one_start_gives_its_own_form_even_where_mistakes_are_confident(scale: float) -> None:
    model, images, targets = task(scale)
    with probing(model, images, targets, ridge=RIDGE, chunk=7) as probe:
        value = tic(probe)["curvature/tic"]
    signs = torch.randint(0, 2, (COUNT, 1), generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    gradient = (signs * oracles.loss_gradients(model, images, targets)).sum(dim=0) / COUNT**0.5
    matrix = oracles.gauss_newton(model, images)
    form = gradient @ torch.linalg.solve(matrix + RIDGE * torch.eye(len(matrix)).double(), gradient)
    assert value == pytest.approx(float(form) / COUNT, rel=0.03)


def test_it_equals_the_samples_residuals_weighed_by_their_leverage() -> None:
    model, images, targets = task(3.0)
    blocks = oracles.leverage_blocks(model, images, RIDGE)
    residuals = model(images).detach().softmax(dim=1) - nn.functional.one_hot(targets, networks.CLASSES)
    direct = torch.einsum("nk,nkj,nj->", residuals, blocks, residuals) / COUNT
    assert float(direct) == pytest.approx(oracles.tic(model, images, targets, RIDGE), rel=1e-9)


def test_it_vanishes_where_the_network_interpolates() -> None:
    model, images, _ = task(300.0)
    with torch.no_grad():
        predicted = model(images).argmax(1)
    with probing(model, images, predicted) as probe:
        assert 0 <= tic(probe)["curvature/tic"] < 0.05


@pytest.mark.parametrize("name", ["tic", "soft_rank", "full_soft_rank"])
def test_without_a_trained_parameter_it_is_absent(name: str) -> None:
    model, images, targets = task()
    found = measured(name, model.requires_grad_(False), images, targets)
    assert (found.values, list(found.absent.values())) == ({}, ["no parameter requires a gradient"])
