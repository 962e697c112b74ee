from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.curvature.diagonal_curvature import diagonal_curvature, diagonal_of
from tests import networks
from tests.oracles import curvature as oracles
from tests.probes import probing

COUNT, RIDGE = 10, 1e-2
module = sys.modules[diagonal_curvature.__module__]  # the package shows the function under the module's name
small_mlp = partial(networks.mlp, (6,))


def task(factory: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    model = networks.made(factory).double().eval()
    inputs = networks.token_ids(COUNT) if factory is networks.Tokens else networks.images(COUNT).double()
    return model, inputs, networks.mostly_right_targets(model, inputs)


def measured(model: nn.Module, inputs: Tensor, targets: Tensor, **more: object) -> tuple[dict[str, float], list[str]]:
    with probing(model, inputs, targets, **{"ridge": RIDGE, **more}) as probe:
        return diagonal_curvature(probe), probe.notes


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
def test_against_the_dense_matrix_and_explicit_gradients(factory: Callable[[], nn.Module]) -> None:
    model, inputs, targets = task(factory)
    values, notes = measured(model, inputs, targets, chunk=4)
    assert notes == []
    assert values == pytest.approx(expected(model, inputs, targets), rel=1e-9)


def test_one_sample_at_a_time_where_samples_cannot_go_together() -> None:
    model, inputs, targets = task(networks.Recurrent)
    values, notes = measured(model, inputs, targets, chunk=4)
    assert values == pytest.approx(expected(model, inputs, targets), rel=1e-9)
    assert len(notes) == 1
    assert notes[0].startswith("curvature/diagonal/* takes longer by one sample at a time, a faster way is absent")


def test_the_size_of_the_passes_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    once, _ = measured(*task(small_mlp))
    monkeypatch.setattr(module, "MOST_NUMBERS", 20_000)
    again, _ = measured(*task(small_mlp))
    assert again == pytest.approx(once, rel=1e-12)


def test_float32_is_near_float64() -> None:
    model, inputs, targets = task(small_mlp)
    exact = expected(model, inputs, targets)
    assert measured(model.float(), inputs.float(), targets)[0] == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_diagonal_lies_above_diagonal_blocks_which_lie_above_the_soft_rank(scale: float) -> None:
    model, images, targets = task(small_mlp)
    with torch.no_grad():
        model[-1].weight.mul_(scale)
    matrix = oracles.gauss_newton(model, images)
    sizes = [parameter.numel() for parameter in model.parameters()]
    blocks = sum(oracles.soft_rank(part.split(sizes, dim=1)[i], RIDGE) for i, part in enumerate(matrix.split(sizes)))
    assert (
        oracles.soft_rank(matrix, RIDGE) < blocks < measured(model, images, targets)[0]["curvature/diagonal/soft_rank"]
    )


def test_a_ridge_that_differs_between_parameters() -> None:
    model, images, targets = task(small_mlp)
    generator = torch.Generator().manual_seed(0)
    ridges = {
        name: RIDGE * (0.5 + torch.rand(weight.shape, generator=generator).double())
        for name, weight in model.named_parameters()
    }
    values, _ = measured(model, images, targets, ridge=ridges)
    flat = torch.cat([ridge.flatten() for ridge in ridges.values()])
    assert values == pytest.approx(expected(model, images, targets, flat), rel=1e-9)


def test_frozen_parameters_do_not_count() -> None:
    model, images, targets = task(small_mlp)
    model[1].requires_grad_(False)
    values, _ = measured(model, images, targets)
    head = nn.Sequential(model[3])
    assert values == pytest.approx(expected(head, model[:3](images).detach(), targets), rel=1e-9)


def test_parts_of_the_parameters_add_up() -> None:
    model, images, targets = task(small_mlp)
    with probing(model, images, targets) as probe:
        parts = [diagonal_of(probe, [name], "x") for name, _ in model.named_parameters()]
    assert sum(part.trace for part in parts if part) == pytest.approx(
        float(oracles.gauss_newton(model, images).trace()), rel=1e-9
    )


def test_the_forwards_are_few_and_the_samples_those_of_the_soft_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLES", 4)
    model, images, targets = task(small_mlp)
    seen: list[int] = []
    with probing(model, images, targets) as probe:
        handle = model[1].register_forward_hook(lambda layer, args, output: seen.append(len(output)))
        found = diagonal_of(probe, ["1.weight"], "x")
        handle.remove()
    assert found is not None
    assert found.samples == 4
    # Whether a gradient arrives is seen at one sample; the classes are counted; all samples go in one mapped call.
    assert seen == [1, 4, 1]


def test_what_is_undefined_is_absent_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, targets = task(small_mlp)
    monkeypatch.setattr(module, "MOST_CLASSES", 3)
    values, notes = measured(model, images, targets)
    assert (values, notes) == ({}, ["curvature/diagonal/* is absent: it takes a backward for each of 4 classes"])
    values, notes = measured(model.requires_grad_(False), images, targets)
    assert (values, notes) == ({}, ["curvature/diagonal/* is absent: no parameter requires a gradient"])


def test_a_model_without_any_derivative_is_absent() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            raise NotImplementedError("no derivative")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(192, 4)

        def forward(self, images: Tensor) -> Tensor:
            return Broken.apply(self.head(images.flatten(1)))

    values, notes = measured(Model().double(), *task(small_mlp)[1:])
    assert values == {}
    assert len(notes) == 1
    assert notes[0].startswith("curvature/diagonal/* is absent: per-sample derivatives fail (")
