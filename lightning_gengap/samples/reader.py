"""How the monitored samples are read, and what they are once read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch

from lightning_gengap.errors import DataError
from lightning_gengap.samples.batches import Forward, ProbeBatch, Target, read_batch

if TYPE_CHECKING:
    from lightning_gengap.samples.others import Others

CHUNK = 128  # samples read, and measured, at once
FEWEST = 256  # samples of which an accuracy is still worth predicting from

Place = Callable[[Any], Any]


@dataclass(frozen=True)
class Samples:
    """The monitored samples.

    Attributes:
        batches: in chunks, on the device of the model.
        train_samples: the number of distinct samples that training draws from; None if unknown.
        augmented: whether two reads of one index differ, so that the samples are not the clean ones.
        notes: what the user should know about the reading.
        others: the training samples that are not monitored; None where they cannot be read by index.
        drawn: the index of each sample in the data set, in their order; None where it is not known.
        copied: whether two reads of one index of the training data differ, whatever is monitored; None if unknown.
    """

    batches: tuple[ProbeBatch, ...]
    train_samples: int | None
    augmented: bool
    notes: tuple[str, ...] = ()
    others: Others | None = None
    copied: bool | None = None
    drawn: Sequence[int] | None = None

    def __len__(self) -> int:
        return count(self.batches)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many samples can be measured, the most first: all, every second batch, every fourth, and so on.

        They are drawn in random order, and chunks stay whole, so that no sample's value depends on the size.
        """
        counts = [len(batch.targets) for batch in self.batches]
        steps = takewhile(lambda step: sum(counts[::step]) >= min(FEWEST, sum(counts)), (1, 2, 4, 8, 16))
        return tuple(dict.fromkeys(sum(counts[::step]) for step in steps))

    def thinned(self, most: float) -> tuple[ProbeBatch, ...]:
        """The batches of the largest size that is no more than `most`, or of the smallest size."""
        sizes = self.sizes
        step = 2 ** next((place for place, size in enumerate(sizes) if size <= most), len(sizes) - 1)
        return self.batches[::step]


def _as_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class SampleReader:
    """How samples are read.

    Attributes:
        samples: how many at most; the last one of batches that were collated by others is used whole.
        seed: of the draw.
        target: from a batch to its class indices; None for the usual places.
        forward: from model and batch to logits; None for a call on the inputs.
        place: moves a collated batch onto the device, as training does.
        move: does so without the hooks that training has around it; None for nothing else than `place`.
    """

    samples: int
    seed: int = 0
    target: Target | None = None
    forward: Forward | None = None
    place: Place = _as_is
    move: Place | None = None

    def batch(self, collated: Any) -> ProbeBatch:
        """A batch on the device, with its targets and inputs found."""
        return read_batch(self.place(collated), self.target, self.forward)

    def draw(self, indices: Sequence[int]) -> list[int]:
        """A seeded permutation of `indices`, cut at the number of samples."""
        order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(self.seed))
        return [indices[i] for i in order[: self.samples].tolist()]

    def take(self, batches: Iterable[Any]) -> tuple[ProbeBatch, ...]:
        """The first collated batches, up to the number of samples."""
        taken: list[ProbeBatch] = []
        for batch in batches:
            taken.append(self.batch(batch))
            if self.has_enough(taken):
                break
        return checked_batches(taken)

    def has_enough(self, batches: Iterable[ProbeBatch]) -> bool:
        """Whether these are as many samples as are wanted."""
        return count(batches) >= self.samples

    def has_some(self, batches: Iterable[ProbeBatch]) -> bool:
        """Whether these are so many that they can be measured already, although more are wanted."""
        return count(batches) >= min(self.samples, FEWEST)


def count(batches: Iterable[ProbeBatch]) -> int:
    """The number of samples in these batches."""
    return sum(len(batch.targets) for batch in batches)


def checked_batches(batches: Iterable[ProbeBatch]) -> tuple[ProbeBatch, ...]:
    """The batches; a DataError refuses those without a sample, or with a single class."""
    checked = tuple(batches)
    if count(checked) == 0:
        raise no_samples("no batch")
    targets = torch.cat([batch.targets.cpu() for batch in checked])
    if len(targets.unique()) < 2:
        error = DataError(
            "training samples",
            got=f"{len(targets)} samples, all of class {int(targets[0])}",
            expected="two classes or more",
            remedy="Shuffle data that come sorted by class, or pass probe_data= with samples of every class.",
        )
        error.may_pass = True  # the network trains on such data all the same
        raise error
    return checked


def no_samples(got: str) -> DataError:
    """The refusal of training data without a single sample."""
    expected = "at least one labelled sample"
    return DataError("training samples", got=got, expected=expected, remedy="Check the data set and its sampler.")
