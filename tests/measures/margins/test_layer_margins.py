from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_gengap.measures.margins.layer_margins import LayerMargins
from lightning_gengap.measures.margins.margin_metrics import NormalizedMargin
from tests.pretended_device import PretendedDevice

GENERATOR = torch.Generator().manual_seed(0)
GAP, GRADIENT, NOISE = (torch.randn(shape, generator=GENERATOR) for shape in ((300,), (300, 4, 5), (300, 4, 5)))


def gathered(chunk: int, place: torch.device | str, gradient: Tensor, activation: Tensor) -> NormalizedMargin:
    margins = LayerMargins()
    for parts in zip(GAP.split(chunk), gradient.split(chunk), activation.split(chunk), strict=True):
        margins.add(*(part.to(place) for part in parts))
    return margins.metric()


def exact(gradient: Tensor, activation: Tensor) -> tuple[Tensor, Tensor]:
    """Margins and total variation, in float64 from the whole."""
    variation = activation.double().flatten(1).var(dim=0, correction=0).sum().sqrt()
    return GAP.double() / gradient.double().flatten(1).norm(dim=1) / variation, variation


@pytest.mark.parametrize("chunk", [300, 128, 7, 1])
@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4])
def test_margins_on_a_device_are_exact_whatever_the_mean(chunk: int, mean: float) -> None:
    activation = NOISE + mean
    with PretendedDevice() as device:
        metric = gathered(chunk, device.place, GRADIENT, activation)
    margins, variation = exact(GRADIENT, activation)
    assert metric.total_variation().dtype == torch.float64
    torch.testing.assert_close(metric.total_variation(), variation, rtol=1e-4, atol=0)
    torch.testing.assert_close(metric.margins(), margins, rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize("on_device", [False, True])
def test_gradients_of_any_size_keep_their_norm(scale: float, on_device: bool) -> None:
    with PretendedDevice() as device:
        metric = gathered(64, device.place if on_device else "cpu", scale * GRADIENT, NOISE)
    margins, _ = exact(scale * GRADIENT, NOISE)
    torch.testing.assert_close(metric.margins(), margins, rtol=2e-5, atol=0)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
@pytest.mark.parametrize("on_device", [False, True])
def test_activations_of_any_size_keep_their_variation(scale: float, on_device: bool) -> None:
    activation = scale * (NOISE + 1)
    with PretendedDevice() as device:
        metric = gathered(64, device.place if on_device else "cpu", GRADIENT, activation)
    margins, variation = exact(GRADIENT, activation)
    torch.testing.assert_close(metric.total_variation(), variation, rtol=2e-5, atol=0)
    torch.testing.assert_close(metric.margins(), margins, rtol=2e-5, atol=0)


def test_samples_without_a_gradient_have_no_margin() -> None:
    with PretendedDevice() as device:
        metric = gathered(64, device.place, torch.zeros_like(GRADIENT), NOISE)
    assert not metric.margins().isfinite().any()


def test_nothing_is_read_from_the_device_before_the_end() -> None:
    with PretendedDevice() as device:
        waits = []
        for chunk in (150, 10):
            with device.counted() as waited:
                gathered(chunk, device.place, GRADIENT, NOISE)
            waits.append(waited.total())
    assert waits == [2, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    gradient, activation = GRADIENT.to(dtype), (NOISE + 10).to(dtype)
    with PretendedDevice() as device:
        metric = gathered(64, device.place, gradient, activation)
    margins, _ = exact(gradient, activation)
    torch.testing.assert_close(metric.margins(), margins, rtol=2e-5, atol=0)
