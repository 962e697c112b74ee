from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.margins.k_variance import mean_class_spread, wasserstein
from tests import networks, oracles
from tests.oracles import measures as measure_oracles
from tests.probes import measured, probing, taken

COUNT = 32


def task() -> tuple[nn.Module, Tensor, Tensor]:
    model, images = networks.made(networks.mlp).double(), networks.images(COUNT).double()
    return model, images, torch.arange(COUNT) % networks.CLASSES


def test_wasserstein_is_the_cheapest_of_all_matchings() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 3, generator=generator).double()
    expected = measure_oracles.cheapest_matching(first.numpy(), second.numpy())
    assert wasserstein(first, second) == pytest.approx(expected, rel=1e-12)
    assert wasserstein(first, first[torch.randperm(6, generator=generator)]) == 0
    assert wasserstein(first, first + 2.0) == pytest.approx(2 * np.sqrt(3), rel=1e-9)


def test_class_spread_is_weighted_by_the_classes_shares() -> None:
    features = torch.tensor([[0.0], [3.0], [10.0], [11.0], [10.0], [11.0], [99.0]])
    targets = torch.tensor([0, 0, 1, 1, 1, 1, 2])  # class 2 has one sample
    found = {mean_class_spread(features, targets, seed) for seed in range(20)}
    assert {round(value, 9) for value in found} == {round((2 * 3 + 4 * w) / 6, 9) for w in (0.0, 1.0)}


def test_k_variance_is_the_median_distance_over_the_spread() -> None:
    model, images, targets = task()
    with probing(model, images, targets, chunk=5, seed=3) as probe:
        values = taken("k_variance", probe).values
        taps = {tap.layer: str(tap) for tap in probe.layout.taps}
    assert set(values) == {"k_variance/classes", *(f"k_variance/{layer}" for layer in taps)}
    assert values["k_variance/classes"] == networks.CLASSES
    for layer, tap in taps.items():
        features = torch.stack([oracles.activation_at(model, tap, image)[1].detach()[0] for image in images])
        distances = oracles.distances(model, tap, images, targets)
        spread = mean_class_spread(features, targets, 3)
        assert values[f"k_variance/{layer}"] == pytest.approx(np.median(distances) / spread, rel=1e-9)


def test_k_variance_of_constant_features_is_absent() -> None:
    model, images, targets = task()
    with torch.no_grad():
        model[1].weight.zero_()
    found = measured("k_variance", model, images, targets)
    assert list(found.values) == ["k_variance/classes"]
    assert found.absent["k_variance/h1"] == "its features or gradients do not vary"


def test_k_variance_needs_two_samples_of_a_class() -> None:
    model, images, _ = task()
    found = measured("k_variance", model, images[:4], torch.arange(4))
    assert (found.values, found.absent) == ({}, {"k_variance/*": "no class has two samples"})
