"""Accuracy and loss on augmented copies of training images: how much of what was learnt survives small changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.measures.key import FUNCTION, INVARIANT, Key
from lightning_gengap.measures.perturbation.perturbation import flipped_and_shifted, images_of
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe

COPIES_HELD = 4  # of all images, at most, beside the images themselves
TURN, ZOOM = math.radians(15), 1.25
TOGETHER = 64  # images whose grids are held at once
DRAWS = 3  # of flips and shifts; the mean over them is less noisy


def augmentation(probe: Probe) -> Values:
    """Accuracy and mean cross-entropy on several kinds of augmented images, labels as trained.

    Keys `augmentation/<kind>_accuracy` and `augmentation/<kind>_loss`. The kinds are `shift` (flips,
    and shifts of up to an eighth of the side; the mean over three draws), `far_shift` (up to a quarter), `turn`
    (rotations by up to 15 degrees), `zoom` (by 0.8 to 1.25), `contrast` (by 0.5 to 1.5, brightness by up to half a
    standard deviation), `cutout` (a square of half the side set to zero), `blend` (0.7 of the image and 0.3 of any
    other one) and `all` (flip, shift, turn, zoom and contrast together). Everything is drawn from the probe's seed, so
    it is the same at every measurement.

    Cost: ten forward passes. Memory: four copies of all images at once. Reference: after Natekar and Sharma 2020 (arXiv
    2012.02775).

    Raises:
        Undefined: the inputs are not images of one size, of 4 x 4 or more, or the copies do not fit into memory.
    """
    images = _together(images_of(probe, least_side=4))
    generator = torch.Generator().manual_seed(probe.seed)
    values: dict[str, float] = {}
    for name, kind in KINDS.items():
        drawn = [scores_on(probe, change(images, generator)) for change in kind.changes]
        values[f"augmentation/{name}_accuracy"] = sum(accuracy for accuracy, _ in drawn) / len(drawn)
        values[f"augmentation/{name}_loss"] = sum(loss for _, loss in drawn) / len(drawn)
    return values


def _together(images: Sequence[Tensor]) -> Tensor:
    """The images of all batches in one tensor, where there is room for what is made of it."""
    numbers = sum(part.numel() for part in images)
    require_room((1 + COPIES_HELD) * numbers * images[0].element_size(), "changed copies of the images")
    return torch.cat(list(images))


def scores_on(probe: Probe, images: Tensor) -> tuple[float, float]:
    """Accuracy and mean cross-entropy with the inputs exchanged for `images`; one forward."""
    logits = probe.all_logits(inputs=images)
    correct = int((logits.argmax(1) == probe.targets).sum())
    return correct / len(images), float(cross_entropy(logits, probe.targets))


def far_shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by up to a quarter of the side in both directions, zeros moving in."""
    return _moved(images, _uniform(images, generator, 0.5), _uniform(images, generator, 0.5))


def turned(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotated by up to 15 degrees either way."""
    return _moved(images, angle=_uniform(images, generator, TURN))


def zoomed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Magnified by 0.8 to 1.25."""
    return _moved(images, scale=ZOOM ** _uniform(images, generator, 1.0))


def contrasted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast about the image's mean by 0.5 to 1.5, brightness by up to half a deviation of all images."""
    factor = 1 + _uniform(images, generator, 0.5)[:, None, None, None].to(images)
    offset = _uniform(images, generator, 0.5)[:, None, None, None].to(images) * images.std()
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (images - mean).mul_(factor).add_(mean).add_(offset)


def cut_out(images: Tensor, generator: torch.Generator) -> Tensor:
    """A square of half the side set to zero, anywhere inside."""
    height, width = images.shape[2:]
    top = torch.randint(0, height - height // 2 + 1, (len(images), 1), generator=generator)
    left = torch.randint(0, width - width // 2 + 1, (len(images), 1), generator=generator)
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    in_rows = (rows >= top) & (rows < top + height // 2)
    in_columns = (columns >= left) & (columns < left + width // 2)
    gone = (in_rows[:, :, None] & in_columns[:, None, :])[:, None].to(images.device)
    return images.masked_fill(gone, 0.0)


def blended(images: Tensor, generator: torch.Generator) -> Tensor:
    """0.7 of the image and 0.3 of another one of any class."""
    partner = torch.arange(len(images)).roll(1)[torch.randperm(len(images), generator=generator)]
    return images[partner.to(images.device)].mul_(0.3).add_(0.7 * images)


def all_together(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flipped, shifted, turned, zoomed and contrasted."""
    moved = _moved(
        flipped_and_shifted(images, generator),
        angle=_uniform(images, generator, TURN),
        scale=ZOOM ** _uniform(images, generator, 1.0),
    )
    return contrasted(moved, generator)


class Kind(NamedTuple):
    """One kind of augmented images: in words, and how each draw is made."""

    words: str
    changes: tuple[Callable[[Tensor, torch.Generator], Tensor], ...]


KINDS: dict[str, Kind] = {
    "shift": Kind("flipped and shifted images, mean over three draws", (flipped_and_shifted,) * DRAWS),
    "far_shift": Kind("images shifted by up to a quarter of the side", (far_shifted,)),
    "turn": Kind("rotated images", (turned,)),
    "zoom": Kind("magnified images", (zoomed,)),
    "contrast": Kind("images of other contrast and brightness", (contrasted,)),
    "cutout": Kind("images with a square set to zero", (cut_out,)),
    "blend": Kind("images blended with others", (blended,)),
    "all": Kind("images flipped, shifted, turned, magnified and contrasted", (all_together,)),
}
KEYS = {
    key: declared
    for name, kind in KINDS.items()
    for key, declared in {
        f"augmentation/{name}_accuracy": Key("fraction", 0, 1, f"accuracy on {kind.words}", INVARIANT),
        f"augmentation/{name}_loss": Key("nats", 0, math.inf, f"mean cross-entropy on {kind.words}", FUNCTION),
    }.items()
}


def _uniform(images: Tensor, generator: torch.Generator, reach: float) -> Tensor:
    """One number in [-reach, reach] per image."""
    return reach * (2 * torch.rand(len(images), generator=generator) - 1)


def _moved(
    images: Tensor,
    right: Tensor | float = 0.0,
    down: Tensor | float = 0.0,
    angle: Tensor | float = 0.0,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """Bilinear affine maps; shifts in half sides, zeros outside."""
    numbers = (right, down, angle, scale)
    right, down, angle, scale = (torch.as_tensor(number).expand(len(images)) for number in numbers)
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    upper, lower = torch.stack([cosine, -sine, right], 1), torch.stack([sine, cosine, down], 1)
    maps = torch.stack([upper, lower], dim=1).to(images)
    moved = torch.empty_like(images)
    for start in range(0, len(images), TOGETHER):
        part = images[start : start + TOGETHER]
        grid = affine_grid(maps[start : start + TOGETHER], list(part.shape), align_corners=False)
        moved[start : start + TOGETHER] = grid_sample(part, grid, align_corners=False)
    return moved
