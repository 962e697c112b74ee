from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.curvature.diagonal_curvature import diagonal_curvature, diagonal_of
from tests import networks
from tests.derivatives.tasks import Factory, Task, small_mlp, task
from tests.oracles import curvature as oracles
from tests.probes import Measured, measured, probing

COUNT, RIDGE = 10, 1e-2
module = sys.modules[diagonal_curvature.__module__]


def taken(model: nn.Module, inputs: Tensor, targets: Tensor, **more: Any) -> Measured:
    return measured("diagonal_curvature", model, inputs, targets, **{"ridge": RIDGE, **more})


def small() -> Task:
    return task(small_mlp, COUNT)


def expected(model: nn.Module, inputs: Tensor, targets: Tensor, ridge: float | Tensor = RIDGE) -> dict[str, float]:
    diagonal = oracles.gauss_newton(model, inputs).diagonal()
    noise = oracles.loss_gradients(model, inputs, targets).square().mean(dim=0)
    return {
        "curvature/diagonal/soft_rank": float((diagonal / (diagonal + ridge)).sum()),
        "curvature/diagonal/tic": float((noise / (diagonal + ridge)).sum()) / len(inputs),
        "curvature/diagonal/trace": float(diagonal.sum()),
        "curvature/diagonal/samples": len(inputs),
        "curvature/diagonal/parameters": len(diagonal),
    }


@pytest.mark.parametrize(
    "factory",
    [small_mlp, networks.cnn_with_batch_norm, networks.VisionTransformer, networks.Reused, networks.Tokens],
    ids=["mlp", "convolutions", "attention", "reused", "tokens"],
)
def test_against_the_dense_matrix_and_explicit_gradients(factory: Factory) -> None:
    model, inputs, targets = task(factory, COUNT)
    values, absent, _, remarks = taken(model, inputs, targets, chunk=4)
    assert (absent, remarks) == ({}, [])
    assert values == pytest.approx(expected(model, inputs, targets), rel=1e-9)


def test_one_sample_at_a_time_where_samples_cannot_go_together() -> None:
    model, inputs, targets = task(networks.Recurrent, COUNT)
    found = taken(model, inputs, targets, chunk=4)
    assert found.values == pytest.approx(expected(model, inputs, targets), rel=1e-9)
    (remark,) = found.remarks
    assert remark.startswith("curvature/diagonal/* takes longer by one sample at a time, a faster way is absent")


def test_float32_is_near_float64() -> None:
    model, inputs, targets = small()
    exact = expected(model, inputs, targets)
    assert taken(model.float(), inputs.float(), targets).values == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_diagonal_lies_above_diagonal_blocks_which_lie_above_the_soft_rank(scale: float) -> None:
    model, images, targets = small()
    with torch.no_grad():
        model[-1].weight.mul_(scale)
    matrix = oracles.gauss_newton(model, images)
    sizes = [parameter.numel() for parameter in model.parameters()]
    blocks = sum(oracles.soft_rank(part.split(sizes, dim=1)[i], RIDGE) for i, part in enumerate(matrix.split(sizes)))
    assert (
        oracles.soft_rank(matrix, RIDGE) < blocks < taken(model, images, targets).values["curvature/diagonal/soft_rank"]
    )


def test_a_ridge_that_differs_between_parameters() -> None:
    model, images, targets = small()
    generator = torch.Generator().manual_seed(0)
    ridges = {
        name: RIDGE * (0.5 + torch.rand(weight.shape, generator=generator).double())
        for name, weight in model.named_parameters()
    }
    values = taken(model, images, targets, ridge=ridges).values
    flat = torch.cat([ridge.flatten() for ridge in ridges.values()])
    assert values == pytest.approx(expected(model, images, targets, flat), rel=1e-9)


def test_frozen_parameters_do_not_count() -> None:
    model, images, targets = small()
    model[1].requires_grad_(False)
    values = taken(model, images, targets).values
    head = nn.Sequential(model[3])
    assert values == pytest.approx(expected(head, model[:3](images).detach(), targets), rel=1e-9)


def test_parts_of_the_parameters_add_up() -> None:
    model, images, targets = small()
    with probing(model, images, targets) as probe:
        parts = [diagonal_of(probe, [name], "x") for name, _ in model.named_parameters()]
    assert sum(part.trace for part in parts) == pytest.approx(
        float(oracles.gauss_newton(model, images).trace()), rel=1e-9
    )


def test_the_forwards_are_few_and_the_samples_those_of_the_soft_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLES", 4)
    model, images, targets = small()
    seen: list[int] = []
    with probing(model, images, targets) as probe:
        handle = model[1].register_forward_hook(lambda layer, args, output: seen.append(len(output)))
        found = diagonal_of(probe, ["1.weight"], "x")
        handle.remove()
    assert found.samples == 4
    # Whether a gradient arrives is seen at one sample; the classes are counted; all samples go in one mapped call.
    assert seen == [1, 4, 1]


class Broken(torch.autograd.Function):
    """The identity, without a derivative."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        raise NotImplementedError("no derivative")


class WithoutDerivative(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return Broken.apply(self.head(images.flatten(1)))


def frozen() -> nn.Module:
    return small_mlp().requires_grad_(False)


@pytest.mark.parametrize(
    ("factory", "classes", "why"),
    [
        (small_mlp, 3, "it takes a backward for each of 4 classes"),
        (frozen, 4, "no parameter requires a gradient"),
        (WithoutDerivative, 4, "per-sample derivatives fail ("),
    ],
)
def test_what_is_undefined_is_absent(factory: Factory, classes: int, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CLASSES", classes)
    found = taken(*task(factory, COUNT))
    assert (found.values, list(found.absent)) == ({}, ["curvature/diagonal/*"])
    assert found.absent["curvature/diagonal/*"].startswith(why)
