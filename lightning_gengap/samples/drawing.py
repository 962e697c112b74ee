"""The fixed training samples: drawn once from the indices really trained on, without iterating the user's loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from lightning_gengap.errors import BatchError, DataError
from lightning_gengap.samples.batches import Forward, ProbeBatch, Target, read_batch
from lightning_gengap.samples.nested import copied, flat_tensors
from lightning_gengap.samples.trainable_indices import no_samples, trainable_indices
from lightning_gengap.undisturbed import random_streams_kept

CHUNK = 128
_READ_TWICE = 8

Place = Callable[[Any], Any]
Read = Callable[[Sequence[int]], Any]


def _as_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class Samples:
    """The monitored samples.

    Attributes:
        batches: the samples in chunks, placed on the device.
        train_samples: the number of distinct trainable samples; None if unknown.
        augmented: whether two reads of one index differ, so that the samples are not the clean ones.
        source: `indices`, `probe_data` or `first batches`.
    """

    batches: tuple[ProbeBatch, ...]
    train_samples: int | None
    augmented: bool
    source: str

    def __len__(self) -> int:
        return sum(len(batch.targets) for batch in self.batches)


@dataclass(frozen=True)
class SampleReader:
    """How samples are read: how many, with which seed and hooks, and onto which device."""

    samples: int
    seed: int = 0
    target: Target | None = None
    forward: Forward | None = None
    place: Place = _as_is

    def batch(self, collated: Any) -> ProbeBatch:
        """A batch on the device, with its targets and inputs found."""
        return read_batch(self.place(collated), self.target, self.forward)

    def draw(self, indices: Sequence[int]) -> list[int]:
        """A seeded permutation of `indices`, cut at the number of samples."""
        order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(self.seed))
        return [indices[i] for i in order[: self.samples].tolist()]


def draw_samples(
    loader: Any, reading: SampleReader, probe_data: Any = None, batches_per_epoch: float = float("inf")
) -> Samples | None:
    """Read the monitored samples now, or return None where only the batches of training itself can be copied.

    Args:
        loader: the training loader, whatever the user gave.
        reading: how to read.
        probe_data: an un-augmented view of the training data: a dataset (of the same length: read at the same
            indices), a loader, or batches.
        batches_per_epoch: how many batches of the loader an epoch uses, for limits on training batches.

    Raises:
        DataError: there is nothing to read.
        BatchError, TargetError: a batch is not understood.
    """
    indices = trainable_indices(loader, batches_per_epoch)
    with random_streams_kept():
        if probe_data is not None:
            return _from_probe_data(probe_data, loader, indices, reading)
        if indices is None:
            return None
        return _read_indices(_reader_of(loader), indices, reading, len(indices), "indices")


def take_batches(batches: Iterable[Any], reading: SampleReader) -> tuple[ProbeBatch, ...]:
    """The first batches up to the number of samples (the last one is used whole).

    Raises:
        DataError: there are none, or they are of one class.
    """
    taken: list[ProbeBatch] = []
    count = 0
    for batch in batches:
        taken.append(reading.batch(batch))
        count += len(taken[-1].targets)
        if count >= reading.samples:
            break
    return _checked(taken)


@dataclass
class FirstBatches:
    """Copies of the first batches of training, for data that cannot be indexed.

    Attributes:
        reading: how many samples to keep; the batches are on their device already.
    """

    reading: SampleReader
    kept: list[ProbeBatch] = field(default_factory=list)

    def add(self, batch: Any) -> None:
        """Copy a batch of training, unless there are enough samples.

        Raises:
            BatchError, TargetError: it is not understood.
        """
        if len(self.samples()) < self.reading.samples:
            self.kept.append(self.reading.batch(copied(batch)))

    def samples(self) -> Samples:
        """What was kept so far."""
        return Samples(tuple(self.kept), None, augmented=False, source="first batches")

    def checked(self) -> Samples:
        """What was kept, once the first epoch has ended.

        Raises:
            DataError: there is nothing, or only one class.
        """
        _checked(self.kept)
        return self.samples()


def _from_probe_data(data: Any, loader: Any, indices: Sequence[int] | None, reading: SampleReader) -> Samples:
    train_samples = None if indices is None else len(indices)
    own, dataset = _indexed(data)
    if own is not None:
        if len(own) == 0:
            raise no_samples("probe_data of length 0")
        collates = isinstance(loader, DataLoader) and loader.batch_sampler is not None
        collate = loader.collate_fn if collates else default_collate
        read = _reader_of(data) if isinstance(data, DataLoader) else _reader(data, collate)
        if indices is not None and len(dataset) == len(loader.dataset):
            own = indices
        return _read_indices(read, own, reading, train_samples, "probe_data")
    if not isinstance(data, Iterable):
        raise BatchError(
            "probe_data",
            got=type(data).__name__,
            expected="a dataset, a DataLoader or an iterable of batches",
            remedy="Pass an un-augmented view of the training set.",
        )
    return Samples(take_batches(data, reading), train_samples, False, "probe_data")


def _indexed(data: Any) -> tuple[Sequence[int] | None, Any]:
    """The indices that probe data offer, and their data set; None where they can only be iterated."""
    if isinstance(data, DataLoader):
        return trainable_indices(data), data.dataset
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return range(len(data)), data  # type: ignore[arg-type]
    return None, data


def _read_indices(
    read: Read, indices: Sequence[int], reading: SampleReader, train_samples: int | None, source: str
) -> Samples:
    drawn = reading.draw(indices)
    batches = _checked(reading.batch(read(drawn[i : i + CHUNK])) for i in range(0, len(drawn), CHUNK))
    augmented = _differs(lambda chosen: reading.place(read(chosen)), drawn[:_READ_TWICE])
    return Samples(batches, train_samples, augmented, source)


def _reader_of(loader: Any) -> Read:
    """Reads a list of indices as the loader would; without its own batching the data set takes the whole list."""
    if loader.batch_sampler is None:
        return lambda indices: loader.collate_fn(loader.dataset[list(indices)])
    return _reader(loader.dataset, loader.collate_fn)


def _reader(dataset: Any, collate: Callable[[Any], Any]) -> Read:
    return lambda indices: collate([dataset[i] for i in indices])


def _differs(read: Read, indices: Sequence[int]) -> bool:
    first, second = flat_tensors(read(indices)), flat_tensors(read(indices))
    return len(first) != len(second) or any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _checked(batches: Iterable[ProbeBatch]) -> tuple[ProbeBatch, ...]:
    checked = tuple(batches)
    if not checked or sum(len(batch.targets) for batch in checked) == 0:
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
