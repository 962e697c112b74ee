"""Accuracy on two kinds of changed images, of which networks are seldom trained on both: what it has not memorised."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_gengap.measures.agreement.mirrored import mirrored_alike
from lightning_gengap.measures.key import INVARIANT, Key
from lightning_gengap.measures.perturbation.perturbation import Changed, flips_and_shifts, images_of
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe

REACH = 0.3  # of the log of a channel's contrast, and of its brightness in deviations
KEYS = {
    "copies/moved_accuracy": Key(
        "fraction", 0, 1, "accuracy on shifted images, mirrored where that keeps their class", INVARIANT
    ),
    "copies/coloured_accuracy": Key(
        "fraction", 0, 1, "accuracy on images with other contrast and brightness in every channel", INVARIANT
    ),
    "copies/least_accuracy": Key("fraction", 0, 1, "the smaller of the two", INVARIANT),
}


def copies(probe: Probe) -> Values:
    """Accuracy on moved and on recoloured copies of the training images, and the smaller one.

    Keys: `copies/moved_accuracy` is on images that are shifted by up to an eighth of their side, zeros moving in, and
    mirrored with probability one half. They are not mirrored where the reference on patches (see `reference`) keeps
    less than 0.8 of its accuracy on mirror images, as with digits. `copies/coloured_accuracy` is on images each of
    whose channels has a contrast of exp(u) about the channel's mean, and v deviations of the channel more brightness,
    with u and v uniform in [-0.3, 0.3]. Everything is drawn from the probe's seed, the same at every measurement.

    What a network has memorised of an image does not survive such changes, unless it was trained on them. Few are
    trained on both, so that `copies/least_accuracy` also tells of those that were trained on moved copies.

    Cost: two forward passes, and what `reference` costs where that was not taken. Reference: after Natekar and Sharma
    2020 (arXiv 2012.02775).

    Raises:
        Undefined: the inputs are not images.
        Later: the reference on patches was not asked yet.
    """
    images = images_of(probe)
    generator = torch.Generator().manual_seed(probe.seed)
    moved = flips_and_shifts(images, generator, mirror=mirrored_alike(probe))
    accuracies = [probe.accuracy_on(made, probe.targets) for made in (moved, recoloured(images, generator))]
    return dict(zip(KEYS, (*accuracies, min(accuracies)), strict=True))


def recoloured(images: Sequence[Tensor], generator: torch.Generator) -> Changed:
    """Images in batches with other contrast and brightness in every channel; drawn now, made later. Same shapes."""
    sizes, channels = [len(part) for part in images], images[0].shape[1]
    mean, deviation = _moments(images)
    drawn = [2 * REACH * torch.rand(sum(sizes), channels, generator=generator) - REACH for _ in range(2)]
    contrast, brightness = (part[:, :, None, None].to(images[0]).split(sizes) for part in (drawn[0].exp(), drawn[1]))

    def made(place: int) -> Tensor:
        own = images[place]
        return (own - mean).mul_(contrast[place]).add_(mean + brightness[place] * deviation)

    return made


def _moments(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every channel over all images, shape (channels, 1, 1)."""
    count = sum(part.numel() for part in images) // images[0].shape[1]
    exact = torch.promote_types(images[0].dtype, torch.float32)
    mean = torch.stack([part.sum((0, 2, 3), dtype=exact) for part in images]).sum(0)[:, None, None] / count
    squares = [((part - mean) ** 2).sum((0, 2, 3)) for part in images]
    deviation = (torch.stack(squares).sum(0)[:, None, None] / count).sqrt()
    return mean.to(images[0]), deviation.to(images[0])
