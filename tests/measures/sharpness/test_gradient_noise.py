from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.derivatives import per_sample
from tests import networks
from tests.oracles import measures as measure_oracles
from tests.probes import Measured, measured

COUNT = 24


def noise_of(model: nn.Module, inputs: Tensor, chunk: int | None = None, **more: object) -> Measured:
    more = {"train_samples": 500, **more}
    return measured("gradient_noise", model, inputs, torch.arange(len(inputs)) % 4, chunk=chunk, **more)


FACTORIES = [
    networks.mlp,
    networks.cnn_with_batch_norm,
    networks.VGG,
    networks.VisionTransformer,
    networks.Reused,
    networks.Tokens,
]


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_against_one_backward_per_sample(factory: Callable[[], nn.Module]) -> None:
    model = networks.made(factory).double().eval()
    inputs = networks.token_ids(COUNT) if factory is networks.Tokens else networks.images(COUNT).double()
    values, absent, *_ = noise_of(model, inputs, chunk=7)
    assert absent == {}
    gradients = measure_oracles.sample_gradients(model, inputs, torch.arange(COUNT) % 4)
    assert values["gradient_noise/trace"] == pytest.approx(gradients.var(axis=0).sum(), rel=1e-9)
    variance = gradients.var(axis=0)
    moving = variance > 1e-25 * variance.max()
    signal = gradients.mean(axis=0)[moving] ** 2 / (variance[moving] + 1.1920929e-07 * np.median(variance[moving]))
    assert values["gradient_noise/signal"] == pytest.approx(signal.mean(), rel=1e-2)
    criterion = values["gradient_noise/trace"] / values["gradient_noise/curvature"] / 500
    assert values["gradient_noise/criterion"] == pytest.approx(criterion, rel=1e-12)


def test_the_curvature_is_an_unbiased_trace_of_the_gauss_newton_matrix() -> None:
    model, images = networks.made(networks.mlp).double().eval(), networks.images(COUNT).double()
    found = [noise_of(model, images, seed=seed).values["gradient_noise/curvature"] for seed in range(30)]
    expected = measure_oracles.gauss_newton_trace(model, images)
    assert abs(np.mean(found) - expected) <= 4 * np.std(found, ddof=1) / np.sqrt(30)
    assert np.std(found) < 0.2 * expected


def test_chunks_seeds_and_frozen_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = networks.made(networks.mlp).double(), networks.images(COUNT).double()
    once = noise_of(model, images).values
    monkeypatch.setattr(per_sample, "MOST_NUMBERS", 10_000)
    again = noise_of(model, images).values
    assert again == pytest.approx(once, rel=1e-9)
    assert all(parameter.grad is None for parameter in model.parameters())
    for parameter in model[1].parameters():
        parameter.requires_grad_(False)
    frozen = noise_of(model, images).values
    gradients = measure_oracles.sample_gradients(
        nn.Sequential(*model[2:]), model[:2](images).detach(), torch.arange(COUNT) % 4
    )
    assert frozen["gradient_noise/trace"] == pytest.approx(gradients.var(axis=0).sum(), rel=1e-9)


def test_recurrent_layers_give_true_values_or_a_note() -> None:
    model, images = networks.made(networks.Recurrent).eval(), networks.images(COUNT)
    values, absent, *_ = noise_of(model, images)
    assert len(values) == (0 if absent else 4)
    if values:
        gradients = measure_oracles.sample_gradients(model, images, torch.arange(COUNT) % 4)
        assert values["gradient_noise/trace"] == pytest.approx(gradients.var(axis=0).sum(), rel=1e-4)


def test_identical_samples_have_no_noise() -> None:
    images = networks.images(1).double().expand(8, -1, -1, -1)
    model, targets = networks.made(networks.mlp).double(), torch.zeros(8).long()
    values = measured("gradient_noise", model, images, targets, train_samples=8).values
    assert values["gradient_noise/trace"] == pytest.approx(0, abs=1e-12)


def test_the_criterion_needs_the_number_of_samples() -> None:
    values, absent, *_ = noise_of(networks.made(networks.mlp), networks.images(COUNT), train_samples=None)
    assert set(values) == {f"gradient_noise/{name}" for name in ("trace", "curvature", "signal")}
    assert absent == {"gradient_noise/criterion": "no curvature, or the number of samples is unknown"}


class Branching(nn.Module):
    """A forward that depends on values, which no batching rule allows."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 4)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return self.head(flat if flat.detach().sum() > 0 else -flat)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Branching(), "per-sample derivatives fail ("),
        (networks.mlp().requires_grad_(False), "no parameter requires a gradient"),
    ],
)
def test_without_gradients_per_sample_nothing_is_given(model: nn.Module, reason: str) -> None:
    values, absent, *_ = noise_of(model, networks.images(COUNT))
    assert values == {}
    assert absent["gradient_noise/*"].startswith(reason)
