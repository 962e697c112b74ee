from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.norms.layer_norms import layer_norms, log_margin
from lightning_gengap.network.probe import copy_state
from tests import networks, oracles
from tests.oracles import measures as measure_oracles
from tests.probes import probing

TARGETS = torch.arange(12) % networks.CLASSES


def test_every_norm_of_every_layer_against_numpy() -> None:
    model, start = (networks.made(networks.cnn_with_batch_norm, seed).double() for seed in (0, 1))
    with probing(model, networks.images(12).double(), TARGETS, initial_state=copy_state(start)) as probe:
        layers = probe.cached(layer_norms)
    assert len(layers) == 4
    channels = 3
    kernels = measure_oracles.folded_kernels(model), measure_oracles.folded_kernels(start)
    for now, then, layer in zip(*kernels, layers, strict=True):
        assert layer.weights == now.size
        assert layer.change is not None
        for kernel, norms in ((now, layer), (now - then, layer.change)):
            spectral = norms.spectral
            assert norms.frobenius == pytest.approx(np.sum(kernel**2), rel=1e-9)
            reshaped = np.linalg.norm(kernel.reshape(len(kernel), -1), 2) ** 2
            assert spectral["reshaped"] == pytest.approx(reshaped, rel=1e-9)
            if kernel.ndim == 2:
                assert spectral["operator"] == pytest.approx(reshaped, rel=1e-5)
                assert spectral["fft"] == pytest.approx(reshaped, rel=1e-9)
                continue
            padded, wrapped = operators(torch.from_numpy(kernel), channels)
            assert spectral["fft"] == pytest.approx(wrapped, rel=1e-9)
            assert padded * 0.96 <= spectral["operator"] <= padded * (1 + 1e-9)  # power iteration, from below
        channels = now.shape[0]


def operators(weight: Tensor, channels: int) -> tuple[float, float]:
    """Squared norms of the convolution of 8 x 8 images, with zeros around them and circular."""
    maps = (
        lambda x: nn.functional.conv2d(x, weight, padding=1),
        lambda x: measure_oracles.circular(weight, 1, (1, 1), x),
    )
    zeros, wrapped = (torch.linalg.matrix_norm(oracles.matrix(apply, (channels, 8, 8)), ord=2) for apply in maps)
    return float(zeros) ** 2, float(wrapped) ** 2


def test_circular_padding_makes_operator_and_fourier_variant_one() -> None:
    def build() -> nn.Module:
        convolution = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")
        return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))

    with probing(networks.made(build).double(), networks.images(12).double(), TARGETS) as probe:
        layer = probe.cached(layer_norms)[0]
    assert layer.spectral["operator"] == pytest.approx(layer.spectral["fft"], rel=0.02)
    assert layer.spectral["operator"] <= layer.spectral["fft"] * (1 + 1e-9)
    assert layer.spectral["reshaped"] < 0.9 * layer.spectral["fft"]  # no operator norm
    assert layer.change is None


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_layer_that_is_zero_or_not_finite_is_refused(value: float) -> None:
    model = networks.made(networks.mlp)
    nn.init.constant_(model[3].weight, value)
    refused = pytest.raises(Undefined, match="zero or not finite")
    with probing(model, networks.images(12), TARGETS) as probe, refused:
        probe.cached(layer_norms)


def test_the_margin_is_the_tenth_percentile_or_none() -> None:
    model, images = networks.made(networks.mlp).double(), networks.images(12).double()
    logits = model(images).detach()
    ranked = logits.sort(dim=1).values
    with probing(model, images, logits.argmax(1)) as probe:
        assert log_margin(probe) == pytest.approx(math.log(np.quantile(ranked[:, -1] - ranked[:, -2], 0.1)))
    with probing(model, images, logits.argmin(1)) as probe:
        assert isinstance(log_margin(probe), Undefined)


def test_the_initial_network_is_folded_by_its_own_statistics() -> None:
    model, start = (networks.made(networks.cnn_with_batch_norm, seed).double() for seed in (0, 1))
    images = networks.images(12).double()
    with probing(model, images, TARGETS, initial_state=copy_state(start)) as probe:
        before = probe.cached(layer_norms)
    measure_oracles.rescale_batch_norm(start[3], start[4], 4.0)
    with probing(model, images, TARGETS, initial_state=copy_state(start)) as probe:
        after = probe.cached(layer_norms)
    for one, two in zip(before, after, strict=True):
        assert one.change is not None
        assert two.change is not None
        assert two.change.frobenius == pytest.approx(one.change.frobenius, rel=1e-9)
        assert two.change.spectral == pytest.approx(one.change.spectral, rel=1e-6)
