"""Leverage blocks in all their forms against each other, explicit Jacobians and refits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_gengap.linalg.left_out import left_out
from lightning_gengap.linalg.leverage import (
    DenseBlocks,
    dense_blocks,
    dual_blocks,
    few_blocks,
    gram_of,
    kronecker_blocks,
    weight_blocks,
)
from tests import networks
from tests.derivatives.tasks import small_mlp, task
from tests.oracles import curvature as oracles

RIDGE = 1e-2


def softmax_task(count: int, seed: int, inputs: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, inputs, generator=generator).double()
    teacher = torch.randn(classes, inputs, generator=generator).double()
    targets = torch.multinomial((features @ teacher.T).softmax(dim=1), 1, generator=generator)[:, 0]
    return features, targets


def test_ridge_regression_is_exact_leave_one_out() -> None:
    # For a squared loss the output curvature is the identity and one Newton step is a refit.
    generator = torch.Generator().manual_seed(0)
    count, classes = 14, 2
    features = torch.randn(count, 4, generator=generator).double()
    values = torch.randn(count, classes, generator=generator).double()
    identity = torch.eye(classes).double().expand(count, -1, -1)
    hessian = torch.kron(identity[0], features.T @ features / count).reshape(classes, 4, classes, 4)
    blocks = DenseBlocks.of(features, hessian, RIDGE)[:]
    penalty = count * RIDGE * torch.eye(4).double()

    def refitted(rows: Tensor) -> Tensor:
        return torch.linalg.solve(features[rows].T @ features[rows] + penalty, features[rows].T @ values[rows])

    everyone = torch.arange(count)
    fitted = features @ refitted(everyone)
    amplified = torch.linalg.solve(identity - blocks, (fitted - values)[:, :, None])
    approximate = fitted + (blocks @ amplified)[:, :, 0]
    exact = torch.stack([features[i] @ refitted(everyone[everyone != i]) for i in range(count)])
    torch.testing.assert_close(approximate, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ridge", [1e-2, 1e-1])
def test_softmax_regression_is_near_exact_refits(ridge: float) -> None:
    count = 40
    features, targets = softmax_task(count, seed=0)
    weights = oracles.fitted_softmax(features, targets, 3, ridge)
    logits = features @ weights.T
    blocks = dense_blocks(features, logits.softmax(dim=1), ridge)
    approximate = left_out(logits, targets, blocks).logits
    exact = []
    for i in range(count):
        rest = [j for j in range(count) if j != i]
        exact.append(
            features[i] @ oracles.fitted_softmax(features[rest], targets[rest], 3, ridge * count / len(rest)).T
        )
    gap = float(cross_entropy(torch.stack(exact), targets) - cross_entropy(logits, targets))
    assert gap > 0.05
    assert float(cross_entropy(approximate, targets) - cross_entropy(logits, targets)) == pytest.approx(gap, rel=0.1)
    assert float((approximate - torch.stack(exact)).abs().max()) < 0.5


def test_the_dense_form_is_that_of_the_explicit_jacobian() -> None:
    model, images, _ = task(networks.linear, 8)
    features = torch.cat([images.flatten(1), torch.ones(8, 1).double()], dim=1)
    blocks = dense_blocks(features, model(images).detach().softmax(1), RIDGE)[:]
    torch.testing.assert_close(blocks, oracles.leverage_blocks(model, images, RIDGE), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("count", [10, 400])
def test_the_dual_form_and_that_of_the_weights_are_that_of_the_explicit_jacobian(count: int) -> None:
    model, images, _ = task(small_mlp, count)
    rows, probabilities = oracles.jacobian(model, images).flatten(0, 1), model(images).detach().softmax(dim=1)
    blocks = dual_blocks(gram_of(rows), probabilities, RIDGE)
    torch.testing.assert_close(blocks, oracles.leverage_blocks(model, images, RIDGE), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(weight_blocks(rows, probabilities, RIDGE)[:], blocks, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("varies", [False, True])
def test_the_form_for_few_samples_is_the_dense_one(varies: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, 20, generator=generator).double()
    probabilities = torch.randn(7, 3, generator=generator).double().softmax(dim=1)
    ridge = RIDGE * (0.1 + torch.rand(3, 20, generator=generator).double()) if varies else RIDGE
    exact = dense_blocks(features, probabilities, ridge)[:]
    torch.testing.assert_close(few_blocks(features, probabilities, ridge), exact, rtol=1e-9, atol=1e-12)


def test_kronecker_and_dense_forms_agree_where_curvature_and_ridge_are_products() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30, 5, generator=generator).double()
    same = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).expand(30, -1)
    per_class, per_input = torch.rand(3, 1, generator=generator).double(), torch.rand(5, generator=generator).double()
    even = torch.full((3, 5), RIDGE, dtype=torch.float64)
    uniform = kronecker_blocks(features, same, RIDGE)[:]
    for ridge in (RIDGE, RIDGE * (per_class + 0.1) * (per_input + 0.1)):
        found = kronecker_blocks(features, same, ridge)[:]
        torch.testing.assert_close(found, dense_blocks(features, same, ridge)[:], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(kronecker_blocks(features, same, even)[:], uniform, rtol=1e-9, atol=1e-12)


def test_the_first_order_of_the_loss_gap_is_the_takeuchi_criterion() -> None:
    model, images, targets = task(small_mlp, 24)
    ridge = 1e3
    blocks = oracles.leverage_blocks(model, images, ridge)  # so large a ridge leaves the first order only
    logits = model(images).detach()
    gap = float(cross_entropy(left_out(logits, targets, blocks).logits, targets) - cross_entropy(logits, targets))
    assert gap == pytest.approx(oracles.tic(model, images, targets, ridge), rel=0.01)


def test_leverage_lies_in_the_unit_interval() -> None:
    features, targets = softmax_task(30, seed=1)
    logits = features @ oracles.fitted_softmax(features, targets, 3, 1e-3).T
    blocks = dense_blocks(features, logits.softmax(dim=1), 1e-3)
    leverage = left_out(logits, targets, blocks).leverage
    assert float(leverage.min()) > 0
    assert float(leverage.max()) < 1


@pytest.mark.parametrize(("rows", "columns"), [(3, 10), (64, 70), (65, 200), (700, 33)])
def test_the_gram_matrix_is_the_product(rows: int, columns: int) -> None:
    jacobian = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    expected = jacobian.double() @ jacobian.double().T
    torch.testing.assert_close(gram_of(jacobian), expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(gram_of(jacobian), gram_of(jacobian).T)
