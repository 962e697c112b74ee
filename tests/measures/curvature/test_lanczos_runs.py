from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.derivatives.gauss_newton import Curvature, dual_curvature
from lightning_gengap.derivatives.jacobian import LINEARISATION, Jacobian
from lightning_gengap.linalg.lanczos import lanczos, shrinkage
from lightning_gengap.measures.curvature.lanczos_runs import LanczosRuns, estimated, one_run
from tests import networks
from tests.derivatives.tasks import small_mlp, task
from tests.oracles import curvature as oracles
from tests.probes import probing

COUNT = 20


def curvature_of(model: nn.Module, images: Tensor, targets: Tensor, **more: object) -> Curvature:
    with probing(model, images, targets, **more) as probe:
        return dual_curvature(probe)


def of_matrix(matrix: Tensor, samples: int, classes: int) -> Curvature:
    """A curvature with evenly spread probabilities and a Jacobian of one's own, shape (samples x classes, weights)."""
    jacobian = Jacobian(
        lambda cotangent: (matrix.T @ cotangent.flatten(),),
        lambda direction: (matrix @ direction[0]).reshape(samples, classes),
    )
    even = torch.full((samples, classes), 1 / classes, dtype=torch.float64)
    labels = torch.zeros(samples, dtype=torch.long)
    return Curvature(
        even, labels, (jacobian,), (samples,), matrix.shape[1], LINEARISATION, torch.device("cpu"), torch.float64
    )


def test_the_mean_over_many_seeds_is_the_dense_value() -> None:
    model, images, targets = task(small_mlp, COUNT, scale=10.0)
    exact = oracles.soft_rank(oracles.dual(model, images), 1e-2)
    curvature = curvature_of(model, images, targets)
    found = torch.tensor([estimated(curvature, 1e-2, seed).soft_rank(1e-2).middle for seed in range(40)])
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / 40**0.5 + 0.02 * exact


def test_a_curvature_of_ridge_times_identity_gives_half_the_parameters() -> None:
    samples, classes, ridge = 12, 3, 1e-2
    size = samples * (classes - 1)
    one = torch.eye(classes).double() - 1 / classes
    basis = torch.linalg.eigh(one)[1][:, 1:]  # B = (I - 1 1^T / classes) / sqrt(classes) at even probabilities
    matrix = torch.block_diag(*[basis] * samples) * (classes * samples * ridge) ** 0.5
    spectrum = estimated(of_matrix(matrix, samples, classes), ridge, seed=0)
    assert spectrum.soft_rank(ridge).middle == pytest.approx(size / 2, rel=1e-9)
    assert len(spectrum.runs[0]) == 1


def test_ridge_regression_gives_the_trace_of_its_hat_matrix() -> None:
    # Two classes at even odds, logits x.w and -x.w: their difference 2 x.w has output curvature 1/4, in all x x^T.
    samples, ridge = 15, 1e-2
    features = torch.randn(samples, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = torch.stack([features, -features], dim=1).reshape(2 * samples, 6)
    curvature = of_matrix(matrix, samples, 2)
    hat = features @ torch.linalg.solve(features.T @ features + samples * ridge * torch.eye(6).double(), features.T)
    found = torch.tensor([estimated(curvature, ridge, seed).soft_rank(ridge).middle for seed in range(60)])
    assert abs(float(found.mean()) - float(hat.trace())) < 4 * float(found.std()) / 60**0.5


def test_a_zero_jacobian_has_rank_zero_and_nothing_undefined() -> None:
    spectrum = estimated(of_matrix(torch.zeros(8, 3).double(), 4, 2), 1e-3, seed=0)
    assert spectrum.soft_rank(1e-3).middle == 0
    assert spectrum.trace == 0
    assert spectrum.largest(3) == [0]


def test_small_ranks_take_a_second_start_large_ones_do_not() -> None:
    model, images, targets = task(small_mlp, COUNT)
    curvature = curvature_of(model, images, targets)
    assert len(estimated(curvature, 1e-1, seed=0).runs) >= 2
    many = of_matrix(torch.eye(400).double() * 40, 200, 2)
    assert len(estimated(many, 1e-3, seed=0).runs) == 1


def test_a_run_stops_at_the_tolerance() -> None:
    model, images, targets = task(small_mlp, COUNT)
    curvature = curvature_of(model, images, targets)
    run = one_run(curvature, curvature.random_signs(torch.Generator().manual_seed(0)), 1e-2)
    before = replace(run, diagonal=run.diagonal[:-1], coupling=run.coupling[:-1])
    assert shrinkage(run, 1e-2).half_width <= 0.02 < shrinkage(before, 1e-2).half_width


def test_the_density_counts_directions_and_integrates_to_trace_and_soft_rank() -> None:
    model, images, targets = task(small_mlp, COUNT, scale=3.0)
    spectrum = estimated(curvature_of(model, images, targets), 1e-2, seed=0)
    density = spectrum.density()
    eigenvalues, directions = density.eigenvalues, density.directions
    assert float(directions.sum()) == pytest.approx(COUNT * (networks.CLASSES - 1), rel=1e-9)
    assert float(directions @ eigenvalues) == pytest.approx(spectrum.trace, rel=1e-9)
    shrunk = float(directions @ (eigenvalues / (eigenvalues + 1e-2)))
    assert shrunk == pytest.approx(spectrum.soft_rank(1e-2).upper, rel=1e-6)
    exact = torch.linalg.eigvalsh(oracles.dual(model, images))
    for threshold in (1e-3, 1e-2, 1e-1):
        count = float(directions[eigenvalues > threshold].sum())
        assert count == pytest.approx(float((exact > threshold).sum()), rel=0.35, abs=3)


def test_largest_ritz_values_of_several_runs_lie_below_the_eigenvalues_of_their_rank() -> None:
    model, images, targets = task(small_mlp, COUNT, scale=3.0)
    exact = torch.linalg.eigvalsh(oracles.dual(model, images)).flip(0).tolist()
    curvature = curvature_of(model, images, targets)
    start = curvature.random_signs(torch.Generator().manual_seed(0))
    few = LanczosRuns((lanczos(curvature.product, start, 4), lanczos(curvature.product, start, 2)))
    assert all(below <= above * (1 + 1e-9) for below, above in zip(few.largest(4), exact[:4], strict=True))
    assert len(few.largest(9)) == 4
    assert len(few.largest(3)) == 3
