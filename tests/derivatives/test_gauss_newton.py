from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_gengap.derivatives.gauss_newton import Curvature, dual_curvature, jacobian_of
from lightning_gengap.samples.batches import read_batch
from tests import networks
from tests.derivatives.tasks import Task, small_mlp, task
from tests.oracles import curvature as oracles
from tests.probes import probing

COUNT = 9


def inplace_task() -> Task:
    return task(lambda: networks.cnn_with_batch_norm(inplace=True), COUNT)


def small_curvature() -> Curvature:
    with probing(*task(small_mlp, COUNT)) as probe:
        return dual_curvature(probe)


def test_the_dual_matrix_has_the_spectrum_of_the_gauss_newton_matrix() -> None:
    model, images, _ = task(small_mlp, COUNT)
    curvature = small_curvature()
    axes = torch.eye(curvature.probabilities.numel(), dtype=torch.float64)
    mine = torch.linalg.eigvalsh(torch.stack([curvature.product(axis) for axis in axes], dim=1)).flip(0)
    theirs = torch.linalg.eigvalsh(oracles.gauss_newton(model, images)).flip(0)
    rank = COUNT * (networks.CLASSES - 1)
    torch.testing.assert_close(mine[:rank], theirs[:rank], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk", [2, COUNT])
def test_float32_and_chunks_change_the_product_by_round_off_only(chunk: int) -> None:
    model, images, targets = inplace_task()
    exact = oracles.dual(model, images)
    vector = torch.ones(len(exact), dtype=torch.float64)
    with probing(model.float(), images.float(), targets, chunk=chunk) as probe:
        product = dual_curvature(probe).product(vector)
    torch.testing.assert_close(product, exact @ vector, rtol=1e-3, atol=1e-6)


def test_the_factor_squares_to_the_output_curvature_and_maps_starts_to_residuals() -> None:
    model, images, _ = task(small_mlp, COUNT)
    curvature = small_curvature()
    vectors = torch.randn(COUNT, networks.CLASSES, dtype=torch.float64)
    product = curvature.factor(curvature.factor_transposed(vectors))
    expected = torch.einsum("nkj,nj->nk", oracles.output_curvature(model(images)), vectors)
    torch.testing.assert_close(product, expected, rtol=1e-12, atol=1e-14)
    start = curvature.signed_residuals(torch.Generator().manual_seed(0)).reshape(COUNT, -1)
    signs = torch.sign((curvature.factor(start) * curvature.residuals).sum(dim=1, keepdim=True))
    torch.testing.assert_close(curvature.factor(start), signs * curvature.residuals, rtol=1e-12, atol=1e-14)


def test_random_signs_cover_all_but_the_known_null_space() -> None:
    curvature, generator = small_curvature(), torch.Generator().manual_seed(0)
    draws = torch.stack([curvature.random_signs(generator) for _ in range(4000)]).reshape(4000, COUNT, -1)
    roots = curvature.probabilities.sqrt()
    assert float((draws * roots).sum(dim=2).abs().max()) < 1e-12
    torch.testing.assert_close(
        draws.square().sum(dim=2), torch.full((4000, COUNT), networks.CLASSES - 1.0).double(), rtol=1e-12, atol=0
    )
    seen = torch.einsum("snk,snj->nkj", draws, draws) / 4000
    expected = torch.eye(networks.CLASSES).double() - roots[:, :, None] * roots[:, None, :]
    assert float((seen - expected).abs().max()) < 5 / 4000**0.5


def test_the_explicit_jacobian_is_that_of_the_oracle() -> None:
    model, images, targets = inplace_task()
    with probing(model, images, targets, chunk=4) as probe:
        rows, logits, labels = jacobian_of(probe, COUNT)
    torch.testing.assert_close(rows, oracles.jacobian(model, images).flatten(0, 1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(logits, model(images).detach())
    assert torch.equal(labels, targets)


def test_ragged_chunks_stay_apart_and_give_the_same_product() -> None:
    model, images, targets = task(networks.cnn, COUNT)
    parts = [(images[:4], targets[:4]), (torch.nn.functional.pad(images[4:], (0, 2)), targets[4:])]
    with probing(model, images, targets) as probe:
        curvature = dual_curvature(replace(probe, batches=tuple(read_batch(part) for part in parts)))
    assert curvature.sizes == (4, COUNT - 4)
    whole = torch.cat([oracles.half(model, inputs) for inputs, _ in parts])
    product = curvature.product(torch.ones(len(whole), dtype=torch.float64))
    torch.testing.assert_close(product, whole @ whole.T.sum(dim=1) / COUNT, rtol=1e-9, atol=1e-12)
