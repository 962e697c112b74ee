"""Ridge on how strongly whitened patches answer in each quarter of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.derivatives.time import require_time
from lightning_gengap.errors import OtherKind, Undefined
from lightning_gengap.measures.agreement.answers import Said, calibrated, signs
from lightning_gengap.measures.agreement.fitting import USUAL, Judged, Price, inputs_like, number_of_others
from lightning_gengap.measures.agreement.sliced_ridge import SlicedRidge
from lightning_gengap.measures.difficulty.compared_samples import compared_inputs
from lightning_gengap.measures.difficulty.input_difficulty import (
    PATCH_SIDE,
    PATCHES,
    channel_moments,
    precise,
    responses,
    whitened_patches,
)
from lightning_gengap.measures.difficulty.leave_one_out_scores import RIDGES
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import ProbeBatch

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


@dataclass
class PatchRidge:
    """Leave-one-out ridge on how whitened patches answer in the images; in sums over slices of all samples.

    Attributes:
        judged, images: the samples that it is asked about.
        features: what it sees of images.
        most, price: see `Fit`.
        sums: over all that are in; None as long as these are the judged samples alone.
    """

    judged: Judged
    images: Tensor
    features: PatchFeatures
    most: int
    price: Price
    sums: SlicedRidge | None = None
    keeps: bool = True

    @classmethod
    def of(cls, probe: Probe, judged: Judged, kept: Mapping[str, Tensor]) -> PatchRidge:
        """The fit that goes on from what was `kept`.

        Raises:
            Undefined: the inputs are no such images, or it takes too much memory or time.
        """
        images = compared_inputs(probe, judged.rows)
        if images is None or images.ndim != 4 or min(images.shape[2:]) < PATCH_SIDE:
            raise OtherKind(f"the inputs are not images of {PATCH_SIDE} x {PATCH_SIDE} or more")
        if not bool(images.isfinite().all()):
            raise Undefined("the inputs are not all finite")
        shape, width = images.shape[1:], features_of(images.shape)
        cost = multiplications(shape) + width**2
        most = number_of_others(probe, judged, shape.numel(), cost)
        _require(len(images), shape, width, cost * (len(images) + most))
        again = len(images) * multiplications(shape) + len(RIDGES) * width**2 * (width / 3 + len(images))
        price = Price(len(images) * cost / USUAL, cost / USUAL, again / USUAL)
        sums = SlicedRidge.restored(kept) if kept else None
        return cls(judged, images, PatchFeatures.of(images, probe.seed), most, price, sums)

    @cached_property
    def rows(self) -> Tensor:
        """What it sees of the judged samples."""
        return self.features(self.images)

    @property
    def labels(self) -> Tensor:
        """Of the judged samples, -1 or 1."""
        return signs(self.judged.ranks, len(self.judged.classes))

    def read(self, batch: ProbeBatch) -> Tensor | None:
        """The features of the images of a batch."""
        inputs = inputs_like(self.images, batch)
        return None if inputs is None else self.features(inputs)

    def add(self, rows: Tensor, ranks: Tensor) -> None:
        """Add to the sums."""
        if self.sums is None:
            self.sums = SlicedRidge.of(self.rows, self.labels)
        self.sums.add(rows, signs(ranks, len(self.judged.classes)))

    def said(self) -> Said:
        """The scores at the best strength, calibrated."""
        ridge = SlicedRidge.of(self.rows, self.labels, alone=True) if self.sums is None else self.sums
        rows, ranks = ridge.centred(self.rows), self.judged.ranks
        best, solved, highest = rows, None, -1
        for strength in RIDGES:
            candidate = ridge.solved(strength)
            scores = candidate.left_out(rows, self.labels)
            right = int((scores.argmax(1) == ranks).sum())
            if right > highest:
                best, solved, highest = scores, candidate, right
        assert solved is not None
        mirrored = ridge.centred(self.features(self.images.flip(3)))
        return Said(calibrated(best, ranks), solved.left_out(rows, self.labels, mirrored).argmax(1))

    def kept(self) -> dict[str, Tensor]:
        """The sums."""
        return {} if self.sums is None else self.sums.kept()


def _require(count: int, shape: torch.Size, width: int, cost: float) -> None:
    """Raise `Undefined` where ridge on patches takes more memory than there is, or more than a minute."""
    patch = shape[0] * PATCH_SIDE**2
    whose = f"patches of {patch} numbers on {count} images"
    held = 4 * count * shape.numel() + 16 * PATCHES * patch + 8 * (4 * width**2 + 5 * count * width)
    require_room(held, whose)
    require_time(cost + PATCHES * patch**2 + len(RIDGES) * width**2 * (width / 3 + count), whose)
