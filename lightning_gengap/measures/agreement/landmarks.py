"""Ridge on how near a vector is to each of some training samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.errors import OtherKind, Undefined
from lightning_gengap.measures.agreement.answers import Said, best_of, calibrated, signs
from lightning_gengap.measures.agreement.fitting import (
    USUAL,
    Judged,
    Price,
    in_units,
    inputs_like,
    number_of_others,
)
from lightning_gengap.measures.agreement.sliced_ridge import SlicedRidge
from lightning_gengap.measures.difficulty.compared_samples import compared_inputs
from lightning_gengap.measures.difficulty.leave_one_out_scores import squared_distances
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import ProbeBatch

LANDMARKS = 512
WIDTHS = (0.3, 1.0, 3.0)  # of the bells, squared, in units of the number of features
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of the ridge


@dataclass(frozen=True)
class LandmarkFeatures:
    """Maps vectors to the heights of Gaussian bells around landmarks.

    Attributes:
        centre, deviation: of each feature of the samples that it was made from, shape (features,).
        landmarks: the first of these, standardised, shape (landmarks, features).
    """

    centre: Tensor
    deviation: Tensor
    landmarks: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> LandmarkFeatures:
        """Bells around the first of these vectors."""
        vectors = vectors.double()
        deviation = vectors.std(0, correction=0)
        deviation = torch.where(deviation > 0, deviation, torch.inf)  # what does not vary says nothing
        centre = vectors.mean(0)
        return cls(centre, deviation, (vectors[:LANDMARKS] - centre) / deviation)

    def __call__(self, vectors: Tensor) -> list[Tensor]:
        """For each width, shape (examples, landmarks), float64, in (0, 1]."""
        standard = (vectors.double() - self.centre) / self.deviation
        apart = squared_distances(standard, self.landmarks)
        return [torch.exp(apart / (-2 * width * max(standard.shape[1], 1))) for width in WIDTHS]


@dataclass
class LandmarkRidge:
    """Leave-one-out ridge on how near a vector is to each of 512 others, at the best of three distances.

    Attributes:
        judged, vectors: the samples that it is asked about.
        numbers: gives inputs units of their own.
        features: what it sees of vectors.
        most, price: see `Fit`.
        sums: over all that are in, for each width; none as long as these are the judged samples alone.
    """

    judged: Judged
    vectors: Tensor
    numbers: Callable[[Tensor], Tensor]
    features: LandmarkFeatures
    most: int
    price: Price
    sums: list[SlicedRidge]
    keeps: bool = True

    @classmethod
    def of(cls, probe: Probe, judged: Judged, kept: Mapping[str, Tensor]) -> LandmarkRidge:
        """The fit that goes on from what was `kept`.

        Raises:
            Undefined: the inputs are no finite vectors, or it takes too much memory.
        """
        own = compared_inputs(probe, judged.rows)
        if own is None or own.ndim != 2:
            raise OtherKind("the inputs are not vectors")
        width, bells = own.shape[1], min(LANDMARKS, len(own))
        cost = len(WIDTHS) * bells * (width + bells)
        require_room(8 * len(own) * (4 * bells + 2 * width), f"the distances of {len(own)} samples")
        numbers = in_units(own)
        vectors = numbers(own)
        if not bool(vectors.isfinite().all()):
            raise Undefined("the inputs are not all finite")
        most = number_of_others(probe, judged, width, cost)
        again = len(WIDTHS) * len(STRENGTHS) * bells**2 * (bells / 3 + len(own))
        price = Price(len(own) * cost / USUAL, cost / USUAL, again / USUAL)
        parts = (_part(kept, place) for place in range(len(WIDTHS)))
        sums = [SlicedRidge.restored(part) for part in parts if part]
        return cls(judged, vectors, numbers, LandmarkFeatures.of(vectors), most, price, sums)

    @cached_property
    def rows(self) -> list[Tensor]:
        """What it sees of the judged samples."""
        return self.features(self.vectors)

    @property
    def labels(self) -> Tensor:
        """Of the judged samples, -1 or 1."""
        return signs(self.judged.ranks, len(self.judged.classes))

    def read(self, batch: ProbeBatch) -> Tensor | None:
        """The vectors of a batch."""
        inputs = inputs_like(self.vectors, batch)
        return None if inputs is None else self.numbers(inputs)

    def add(self, rows: Tensor, ranks: Tensor) -> None:
        """Add to the sums."""
        if not self.sums:
            self.sums = self._of_judged()
        labels = signs(ranks, len(self.judged.classes))
        for sums, bells in zip(self.sums, self.features(rows), strict=True):
            sums.add(bells, labels)

    def said(self) -> Said:
        """The scores at the best width and strength, calibrated."""
        found = []
        for ridge, rows in zip(self.sums or self._of_judged(), self.rows, strict=True):
            centred = ridge.centred(rows)
            found += [ridge.solved(strength).left_out(centred, self.labels) for strength in STRENGTHS]
        return Said(calibrated(best_of(found, self.judged.ranks), self.judged.ranks))

    def kept(self) -> dict[str, Tensor]:
        """The sums."""
        return {f"{place}/{name}": part for place, sums in enumerate(self.sums) for name, part in sums.kept().items()}

    def _of_judged(self) -> list[SlicedRidge]:
        return [SlicedRidge.of(rows, self.labels) for rows in self.rows]


def _part(kept: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    prefix = f"{place}/"
    return {name.removeprefix(prefix): part for name, part in kept.items() if name.startswith(prefix)}
