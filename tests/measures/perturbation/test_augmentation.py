import pytest
import torch
from torch import nn

from lightning_gengap.measures.perturbation.augmentation import (
    all_together,
    blended,
    contrasted,
    cut_out,
    far_shifted,
    scores_on,
    turned,
    zoomed,
)
from tests import networks
from tests.probes import measured, probing


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spot(side: int = 17, row: int = 8, column: int = 12) -> torch.Tensor:
    """200 images of one bright pixel, four right of the centre."""
    images = torch.zeros(200, 1, side, side, dtype=torch.float64)
    images[:, 0, row, column] = 1
    return images


def centre_of_mass(images: torch.Tensor) -> torch.Tensor:
    side = images.shape[-1]
    places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).double()
    weights = images[:, 0, :, :, None]
    return (weights * places).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))


def test_scores_equal_those_of_the_model_on_the_changed_images():
    model = networks.made(networks.cnn_with_batch_norm).double()
    inputs = networks.images(40).double()
    targets = networks.mostly_right_targets(model, inputs)
    changed = turned(inputs, generator())
    with probing(model, inputs, targets, chunk=7) as probe:
        accuracy, loss = scores_on(probe, changed)
        logits = model(changed)
    assert accuracy == (logits.argmax(1) == targets).double().mean().item()
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, targets).item(), rel=1e-12)


def test_turning_keeps_the_distance_from_the_centre_and_the_angle_within_fifteen_degrees():
    places = centre_of_mass(turned(spot(), generator())) - 8
    assert torch.allclose(places.norm(dim=1), torch.tensor(4.0, dtype=torch.float64), atol=0.3)
    angles = torch.atan2(places[:, 0], places[:, 1]).rad2deg()
    assert angles.abs().max() <= 18  # a pixel's width beyond
    assert angles.min() < -10 < 10 < angles.max()


def test_zooming_scales_the_distance_from_the_centre_by_at_most_a_quarter():
    places = centre_of_mass(zoomed(spot(), generator())) - 8
    assert places[:, 0].abs().max() < 0.1
    assert 4 / 1.25 - 0.3 <= places[:, 1].min() < 3.6
    assert 4.4 < places[:, 1].max() <= 4 * 1.25 + 0.3


def test_far_shifts_reach_a_quarter_of_the_side_in_both_directions():
    moved = centre_of_mass(far_shifted(spot(column=8), generator())) - 8
    assert moved.abs().max() <= 17 / 4 + 0.5
    assert all(moved[:, axis].min() < -3 < 3 < moved[:, axis].max() for axis in (0, 1))


def test_contrast_is_an_affine_map_of_each_image():
    images = networks.images(20).double()
    changed = contrasted(images, generator())
    for before, after in zip(images, changed, strict=True):
        for x, y in zip(before, after, strict=True):  # per channel
            slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
            assert 0.5 - 1e-9 <= slope <= 1.5 + 1e-9
            assert torch.allclose(y, y.mean() + slope * (x - x.mean()))


def test_cutout_zeroes_a_quarter_of_each_image_and_leaves_the_rest():
    images = torch.ones(50, 2, 8, 8)
    changed = cut_out(images, generator())
    assert torch.equal((changed == 0).sum(dim=(1, 2, 3)), torch.full((50,), 2 * 16))
    assert len({tuple(image.flatten().tolist()) for image in changed}) > 5


def test_blends_are_mostly_the_image_itself():
    images = torch.eye(30).reshape(30, 1, 5, 6)
    changed = blended(images, generator()).flatten(1)
    assert (changed.diagonal() >= 0.7 - 1e-6).all()
    assert torch.allclose(changed.sum(dim=1), torch.ones(30))


def test_the_same_generator_gives_the_same_images():
    images = networks.images(10)
    assert torch.equal(all_together(images, generator(3)), all_together(images, generator(3)))
    assert not torch.equal(all_together(images, generator(3)), all_together(images, generator(4)))


def test_images_that_are_too_small_are_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    found = measured("augmentation", model, torch.randn(20, 1, 4, 3), torch.arange(20) % 3)
    assert (found.values, found.absent) == ({}, {"augmentation/*": "the images are smaller than 4 x 4"})
