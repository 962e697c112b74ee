from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from lightning_gengap.measures.sharpness.sharpness import divergence
from lightning_gengap.measures.sharpness.weight_noise import affine, proportional
from tests import networks
from tests.measures.sharpness.tasks import trained, wide
from tests.probes import measured


def test_divergence_is_that_of_normal_distributions() -> None:
    w, c = torch.randn(2, 30, generator=torch.Generator().manual_seed(0)).double()
    deviation = affine(0.01)(w)
    expected = kl_divergence(Normal(w, deviation), Normal(c, deviation)).sum()
    assert divergence({"w": w}, {"w": c}, affine(0.01)) == pytest.approx(float(expected), rel=1e-9)
    # From zero, purely proportional noise has a constant divergence, whatever the weights.
    assert divergence({"w": w}, {"w": torch.zeros(())}, proportional(0.1)) == pytest.approx(30 / (2 * 0.1**2))


def test_noise_counts_by_its_size_and_the_start_by_its_distance() -> None:
    model, images, targets = trained(wide)
    values = measured("sharpness", model, images, targets, initial_state=dict(model.state_dict())).values
    assert values["sharpness/kl_initial_0.001"] == 0
    assert values["sharpness/expected_0.01"] > values["sharpness/expected_0.001"]
    assert values["sharpness/kl_0.01"] < values["sharpness/kl_0.001"]


@pytest.mark.parametrize("name", ["sharpness", "adaptive_sharpness", "pac_bayes", "worst_case"])
def test_a_batch_norm_that_cannot_be_folded_leaves_nothing(name: str) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 4))
    values, absent, *_ = measured(name, model, networks.images(8), torch.arange(8) % 4)
    assert values == {}
    assert absent[f"{name}/*"].startswith("batch norm '0' does not directly follow")


@pytest.mark.parametrize("factory", [networks.VisionTransformer, networks.Recurrent, networks.ResNet])
def test_other_architectures_have_finite_values(factory: Callable[[], nn.Module]) -> None:
    task = networks.made(factory), networks.images(12), torch.arange(12) % 4
    values, absent, *_ = measured("sharpness", *task)
    assert absent == {"sharpness/kl_initial_*": "the initial weights are unknown"}
    assert len(values) == 15
    assert all(map(math.isfinite, values.values()))
