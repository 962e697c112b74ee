from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_gengap.measures.sharpness.weight_noise import (
    absolute,
    affine,
    fit_at,
    fit_under_noise,
    magnitude_aware,
    noisy,
    proportional,
)
from lightning_gengap.network.folding import folded
from tests.probes import probing


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.5])
def test_the_drawn_noise_has_the_standard_deviation_it_is_asked_for(sigma: float) -> None:
    weights = {"zero": torch.zeros(100_000), "two": torch.full((100_000,), -2.0).double()}
    expected = {
        absolute: (sigma, sigma),
        magnitude_aware: (1e-3, math.sqrt(4 * sigma**2 + 1e-6)),
        affine: (sigma, 21 * sigma),
        proportional: (0.0, 2 * sigma),
    }
    for noise, deviations in expected.items():
        copies = noisy(weights, noise(sigma), seed=3)
        for (name, weight), deviation in zip(weights.items(), deviations, strict=True):
            drawn = copies[name] - weight
            assert float(drawn.std()) == pytest.approx(deviation, rel=0.01)
            assert abs(float(drawn.mean())) <= 4 * deviation / math.sqrt(100_000)


@pytest.mark.parametrize("rho", [0.1, 0.8])
def test_uniform_noise_fills_the_box_evenly(rho: float) -> None:
    weight = torch.linspace(-2, 2, 200_001).double()
    drawn = (noisy({"w": weight}, proportional(rho), 3, "uniform")["w"] - weight) / (rho * weight.abs())
    drawn = drawn[weight != 0]
    assert float(drawn.abs().max()) <= 1 + 1e-9
    assert abs(float(drawn.mean())) <= 4 / math.sqrt(3 * len(drawn))
    # The square of a uniform draw in [-1, 1] has mean 1/3 and variance 4/45.
    assert abs(float(drawn.square().mean()) - 1 / 3) <= 4 * math.sqrt(4 / 45 / len(drawn))


def test_draws_are_the_same_at_every_level() -> None:
    weights = {"a": torch.randn(50), "b": torch.randn(50)}
    one, two, other = (
        {name: (copy - weights[name]) / s for name, copy in noisy(weights, absolute(s), seed).items()}
        for s, seed in ((0.1, 1), (0.2, 1), (0.1, 2))
    )
    for name in weights:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(one[name], other[name], atol=0.1)
    assert not torch.allclose(one["a"], one["b"], atol=0.1)


def test_expected_sharpness_of_a_quadratic_is_half_the_weighted_trace() -> None:
    # At zero weights, with both labels for one input, the loss is log(2 cosh(u / 2)) of the logits' difference u.
    inputs = torch.tensor([[1.0, 0.5, -0.2], [1.0, 0.5, -0.2]]).double()
    model = nn.Linear(3, 2, bias=False).double()
    nn.init.zeros_(model.weight)
    sigma, count = 0.1, 2000
    with probing(model, inputs, torch.tensor([0, 1])) as probe:
        network = probe.cached(folded)
        rise = fit_under_noise(probe, network, absolute(sigma), range(count)).loss - fit_at(probe).loss
    trace = 2 * 0.25 * float(inputs[0].square().sum())  # p (1 - p) |x|^2, once per class
    # The rise is u^2 / 8 with u normal: its standard deviation is sqrt(2) times its mean.
    assert rise == pytest.approx(sigma**2 * trace / 2, rel=4 * math.sqrt(2 / count) + 0.01)
