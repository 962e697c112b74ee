"""What a ridge sees of an image: how strongly whitened patches answer in each quarter of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gengap.measures.difficulty.input_difficulty import (
    PATCH_SIDE,
    channel_moments,
    precise,
    responses,
    whitened_patches,
)

FILTERS = 400
GRID = 2  # regions a side
LARGE = 16  # pixels a side from which every second place is enough


@dataclass(frozen=True)
class PatchFeatures:
    """Maps images to rows; its filters are patches of the images that it was made from, whose labels play no part.

    Attributes:
        mean: of each channel, shape (1, channels, 1, 1).
        deviation: of each channel.
        filters: shape (filters, channels, side, side).
        offsets: shape (filters,).
        stride: between the places that are looked at.
    """

    mean: Tensor
    deviation: Tensor
    filters: Tensor
    offsets: Tensor
    stride: int

    @classmethod
    def of(cls, images: Tensor, seed: int) -> PatchFeatures:
        """The features with patches of these images."""
        images = precise(images)
        mean, deviation = channel_moments(images)
        generator = torch.Generator().manual_seed(seed)
        filters, offsets = whitened_patches((images - mean) / deviation, FILTERS, generator)
        return cls(mean, deviation, filters, offsets, stride_on(images.shape))

    def __call__(self, images: Tensor) -> Tensor:
        """Shape (examples, filters x regions), float64, on the CPU."""
        images = (precise(images) - self.mean) / self.deviation
        return responses(images, self.filters, self.offsets, self.stride, GRID, both=False)


def stride_on(shape: torch.Size) -> int:
    """Between the places that are looked at in images of this shape."""
    return 2 if min(shape[-2:]) >= LARGE else 1


def places_on(shape: torch.Size) -> tuple[int, int]:
    """How many places are looked at along both sides."""
    height, width = ((side - PATCH_SIDE) // stride_on(shape) + 1 for side in shape[-2:])
    return height, width


def features_of(shape: torch.Size) -> int:
    """How many numbers an image of this shape gives."""
    height, width = (min(GRID, places) for places in places_on(shape))
    return FILTERS * height * width


def multiplications(shape: torch.Size) -> int:
    """How many an image of this shape takes."""
    height, width = places_on(shape)
    return FILTERS * shape[-3] * PATCH_SIDE**2 * height * width
