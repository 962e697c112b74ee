from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.errors import Later
from lightning_gengap.measures.agreement import mirrored
from lightning_gengap.measures.agreement.copies import REACH, recoloured
from lightning_gengap.measures.agreement.mirrored import mirrored_alike
from lightning_gengap.network.probe import Probe
from tests import networks
from tests.probes import measured, probing


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class BrighterLeft(nn.Module):
    """Class 1 where the left half is brighter than the right one in the first channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        half = images.shape[3] // 2
        left, right = images[:, 0, :, :half].mean((1, 2)), images[:, 0, :, half:].mean((1, 2))
        return self.scale * torch.stack([right, left], dim=1)


class Bright(nn.Module):
    """Class 1 where the first channel is above zero on average."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        mean = images[:, 0].mean((1, 2))
        return self.scale * torch.stack([-mean, mean], dim=1)


def halves(count: int = 120) -> tuple[Tensor, Tensor]:
    """Images whose brighter half, with a slope that a patch sees, is the class."""
    targets = torch.arange(count) % 2
    slope = torch.linspace(1, -1, 16)[None, None, None, :].expand(count, 1, 16, 16)
    noise = 0.1 * torch.randn(count, 1, 16, 16, generator=generator(1))
    return (2 * targets - 1)[:, None, None, None] * slope + noise, targets


def test_every_channel_has_another_contrast_and_brightness() -> None:
    images = [3 * networks.images(50).double() + 7, 3 * networks.images(20).double() + 7]
    made = recoloured(images, generator())
    together, changed = torch.cat(images), torch.cat([made(0), made(1)])
    mean = together.mean((0, 2, 3))[:, None, None]
    deviation = together.std((0, 2, 3), correction=0)[:, None, None]
    for image, copy in zip(together, changed, strict=True):
        contrast = copy.std((1, 2)) / image.std((1, 2))
        brightness = (copy - (image - mean) * contrast[:, None, None] - mean) / deviation
        assert float(contrast.log().abs().max()) <= REACH
        assert float(brightness.abs().max()) <= REACH
        assert float((brightness.amax((1, 2)) - brightness.amin((1, 2))).max()) < 1e-6  # the same for all pixels
    assert float((changed - together).flatten(1).abs().amax(1).min()) > 0.05


def test_units_of_the_images_do_not_matter() -> None:
    images = networks.images(30).double()
    changed = recoloured([images], generator())(0)
    other = recoloured([255 * images + 100], generator())(0)
    torch.testing.assert_close(other, 255 * changed + 100)


def test_images_that_have_another_class_in_the_mirror_are_not_mirrored() -> None:
    images, targets = halves()
    with probing(BrighterLeft(), images, targets) as probe:
        assert not mirrored_alike(probe)
    found = measured("copies", BrighterLeft(), images, targets).values
    assert found["copies/moved_accuracy"] == 1.0
    assert measured("perturbation", BrighterLeft(), images, targets).values["perturbation/augment_accuracy"] < 0.8


def test_images_with_the_class_of_their_mirror_are_mirrored() -> None:
    targets = torch.arange(120) % 2
    stripes = torch.tensor([1.0, -1.0]).repeat(8)[None, None, :, None].expand(120, 1, 16, 16)
    noise = 0.3 * torch.randn(120, 1, 16, 16, generator=generator(2))
    images = targets[:, None, None, None] * stripes + noise
    with probing(BrighterLeft(), images, targets) as probe:
        assert mirrored_alike(probe)
    by_half = BrighterLeft()(images).argmax(1)  # labels that turn around in the mirror
    probed = measured("copies", BrighterLeft(), images, by_half).values
    assert probed["copies/moved_accuracy"] < 0.9


def test_nothing_is_decided_before_the_reference_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def later(probe: Probe, name: str) -> None:
        raise Later("its reference was not asked yet")

    monkeypatch.setattr(mirrored, "out_of_fold", later)
    found = measured("copies", BrighterLeft(), *halves())
    assert found.values == {}


def test_the_least_is_that_of_what_the_network_is_sensitive_to() -> None:
    images = 0.1 * networks.images(200)
    targets = (images[:, 0].mean((1, 2)) > 0).long()
    found = measured("copies", Bright(), images, targets).values
    assert found["copies/least_accuracy"] == found["copies/coloured_accuracy"] < found["copies/moved_accuracy"]


@pytest.mark.parametrize("inputs", [torch.randn(60, 5), torch.randn(60, 3, 9)], ids=["vectors", "sequences"])
def test_there_is_none_without_images(inputs: Tensor) -> None:
    found = measured("copies", nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), inputs, torch.arange(60) % 2)
    assert found.values == {}
    assert "images" in str(found.absent)
