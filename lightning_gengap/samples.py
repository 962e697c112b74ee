"""The fixed training samples: drawn once from the indices really trained on, without iterating the user's loader."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_gengap.batches import Forward, ProbeBatch, Target, read_batch
from lightning_gengap.errors import BatchError, DataError
from lightning_gengap.undisturbed import random_streams_kept

CHUNK = 128
_READ_TWICE = 8

Place = Callable[[Any], Any]


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
class Reading:
    """How samples are read: how many, with which seed and hooks, and onto which device."""

    samples: int
    seed: int = 0
    target: Target | None = None
    forward: Forward | None = None
    place: Place = lambda batch: batch

    def batch(self, collated: Any) -> ProbeBatch:
        """A placed batch, read and detached from whatever produced it."""
        return read_batch(self.place(collated), self.target, self.forward)

    def draw(self, indices: Sequence[int]) -> list[int]:
        """A seeded permutation of `indices`, cut at the number of samples."""
        order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(self.seed))
        return [indices[i] for i in order[: self.samples].tolist()]


def draw_samples(loader: Any, reading: Reading, probe_data: Any = None, batches_per_epoch: float = float("inf")) -> Samples | None:
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
    train_samples = None if indices is None else len(indices)
    with random_streams_kept():
        if probe_data is not None:
            return _from_probe_data(probe_data, loader, indices, reading)
        if indices is None:
            return None
        drawn = reading.draw(indices)
        read = _reader(loader.dataset, loader.collate_fn, by_list=loader.batch_size is None)
        batches = _checked(reading.batch(read(drawn[i : i + CHUNK])) for i in range(0, len(drawn), CHUNK))
        augmented = _differs(read, drawn[:_READ_TWICE])
    return Samples(batches, train_samples, augmented, "indices")


def trainable_indices(loader: Any, batches_per_epoch: float = float("inf")) -> Sequence[int] | None:
    """The distinct indices that training draws from; None for iterable data or an unknown container.

    A sampler of an unknown kind is asked through a copy, so that its own state does not move.

    Raises:
        DataError: the set is empty.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if loader.batch_sampler is None and loader.batch_size is None and not isinstance(sampler, BatchSampler):
        return None  # every item of the data set is a batch of its own
    with random_streams_kept():
        indices = _set_of(sampler, loader.dataset)
    if indices is not None and _keeps_order(sampler) and loader.batch_size:
        indices = indices[: int(min(batches_per_epoch * loader.batch_size, len(indices)))]
    if indices is not None and len(indices) == 0:
        raise _empty(f"a loader over {type(loader.dataset).__name__} that yields no index")
    return indices


def take_batches(batches: Iterable[Any], reading: Reading) -> tuple[ProbeBatch, ...]:
    """The first batches up to the number of samples (the last one is used whole).

    Raises:
        DataError: there are none.
    """
    taken: list[ProbeBatch] = []
    count = 0
    for batch in batches:
        taken.append(reading.batch(batch))
        count += len(taken[-1].targets)
        if count >= reading.samples:
            break
    return _checked(taken)


def copied(batch: Any) -> Any:
    """A batch of training with every tensor cloned, so that later in-place changes do not reach it."""
    if isinstance(batch, Tensor):
        return batch.detach().clone()
    if isinstance(batch, Mapping):
        return {key: copied(value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(copied, batch))
    return type(batch)(map(copied, batch)) if isinstance(batch, list | tuple) else batch


def _from_probe_data(data: Any, loader: Any, indices: Sequence[int] | None, reading: Reading) -> Samples:
    train_samples = None if indices is None else len(indices)
    if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
        collate, data = data.collate_fn, data.dataset
    else:
        collate = getattr(loader, "collate_fn", default_collate)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        length = len(data)  # type: ignore[arg-type]
        if length == 0:
            raise _empty("probe_data of length 0")
        same = indices is not None and length == len(loader.dataset)
        drawn = reading.draw(indices if indices is not None and same else range(length))
        read = _reader(data, collate)
        batches = _checked(reading.batch(read(drawn[i : i + CHUNK])) for i in range(0, len(drawn), CHUNK))
        return Samples(batches, train_samples, _differs(read, drawn[:_READ_TWICE]), "probe_data")
    if not isinstance(data, Iterable):
        raise BatchError(
            "probe_data",
            got=type(data).__name__,
            expected="a dataset, a DataLoader or an iterable of batches",
            remedy="Pass an un-augmented view of the training set.",
        )
    return Samples(take_batches(data, reading), train_samples, False, "probe_data")


def _reader(
    dataset: Any, collate: Callable[[Any], Any], by_list: bool = False
) -> Callable[[Sequence[int]], Any]:
    """Reads and collates a list of indices; `by_list`: the data set itself takes the list."""
    if by_list:
        return lambda indices: collate(dataset[list(indices)])
    return lambda indices: collate([dataset[i] for i in indices])


def _differs(read: Callable[[Sequence[int]], Any], indices: Sequence[int]) -> bool:
    first, second = _flat(read(indices)), _flat(read(indices))
    return len(first) != len(second) or any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _flat(content: Any) -> list[Tensor]:
    if isinstance(content, Tensor):
        return [content]
    parts = content.values() if isinstance(content, Mapping) else content
    return [t for part in parts for t in _flat(part)] if isinstance(parts, list | tuple | type({}.values())) else []


def _keeps_order(sampler: Any) -> bool:
    return isinstance(getattr(sampler, "sampler", sampler), SequentialSampler)


def _set_of(sampler: Any, dataset: Any) -> Sequence[int] | None:
    """The distinct indices a sampler can yield, by its kind where known, else from a copy of it."""
    if isinstance(sampler, RandomSampler | SequentialSampler):
        return range(len(sampler.data_source))
    if isinstance(sampler, DistributedSampler):
        return range(len(dataset))
    if isinstance(sampler, SubsetRandomSampler):
        return sorted(set(sampler.indices))
    if isinstance(sampler, WeightedRandomSampler):
        return torch.as_tensor(sampler.weights).nonzero()[:, 0].tolist()
    if type(sampler) is BatchSampler:
        return _set_of(sampler.sampler, dataset)
    try:
        yielded = list(copy.deepcopy(sampler, {id(dataset): dataset}))
    except Exception:  # a sampler that cannot be copied: fall back to the batches of training
        return None
    flat = [i for item in yielded for i in (item if isinstance(item, list | tuple | Tensor) else [item])]
    return sorted({int(i) for i in flat})


def _checked(batches: Iterable[ProbeBatch]) -> tuple[ProbeBatch, ...]:
    checked = tuple(batches)
    if not checked or sum(len(batch.targets) for batch in checked) == 0:
        raise _empty("no batch")
    targets = torch.cat([batch.targets.cpu() for batch in checked])
    if len(targets.unique()) < 2:
        raise DataError(
            "training samples",
            got=f"{len(targets)} samples, all of class {int(targets[0])}",
            expected="two classes or more",
            remedy="Shuffle data that come sorted by class, or pass probe_data= with samples of every class.",
        )
    return checked


def _empty(got: str) -> DataError:
    return DataError(
        "training samples", got=got, expected="at least one labelled sample", remedy="Check the data set and its sampler."
    )
