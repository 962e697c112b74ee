"""The fixed samples: drawn once from the indices that training draws from, without iterating the user's loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from lightning_gengap.errors import BatchError
from lightning_gengap.samples.nested import flat_tensors
from lightning_gengap.samples.reader import CHUNK, SampleReader, Samples, checked_batches, no_samples
from lightning_gengap.samples.trainable_indices import trainable_indices
from lightning_gengap.undisturbed import random_streams_kept

_READ_TWICE = 8

Read = Callable[[Sequence[int]], Any]


def draw_samples(
    loader: Any, reader: SampleReader, probe_data: Any = None, batches_per_epoch: float = float("inf")
) -> Samples | None:
    """Read the monitored samples now, or return None where only the batches of training itself can be copied.

    Args:
        loader: the training loader, whatever the user gave.
        reader: how to read.
        probe_data: a view of the training data without augmentation: a data set, a loader or batches. A data set of
            the training set's length is read at the indices that training draws from.
        batches_per_epoch: see `trainable_indices`.
    """
    indices = trainable_indices(loader, batches_per_epoch)
    with random_streams_kept():
        if probe_data is not None:
            return _from_probe_data(probe_data, loader, indices, reader)
        if indices is None:
            return None
        return _read_indices(_read_as(loader), indices, reader, len(indices))


def _from_probe_data(data: Any, loader: Any, indices: Sequence[int] | None, reader: SampleReader) -> Samples:
    train_samples = None if indices is None else len(indices)
    own, dataset = _indexed(data)
    if own is not None:
        if len(own) == 0:
            raise no_samples("probe_data of length 0")
        collates = isinstance(loader, DataLoader) and loader.batch_sampler is not None
        collate = loader.collate_fn if collates else default_collate
        read = _read_as(data) if isinstance(data, DataLoader) else _read_each(data, collate)
        if indices is not None and len(dataset) == len(loader.dataset):
            own = indices
        return _read_indices(read, own, reader, train_samples)
    if not isinstance(data, Iterable):
        raise BatchError(
            "probe_data",
            got=type(data).__name__,
            expected="a dataset, a DataLoader or an iterable of batches",
            remedy="Pass an un-augmented view of the training set.",
        )
    return Samples(reader.take(data), train_samples, augmented=False)


def _indexed(data: Any) -> tuple[Sequence[int] | None, Any]:
    """The indices that probe data offer, and their data set; no indices where the data can only be iterated."""
    if isinstance(data, DataLoader):
        return trainable_indices(data), data.dataset
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return range(len(data)), data  # type: ignore[arg-type]
    return None, data


def _read_indices(read: Read, indices: Sequence[int], reader: SampleReader, train_samples: int | None) -> Samples:
    drawn = reader.draw(indices)
    batches = checked_batches(reader.batch(read(drawn[i : i + CHUNK])) for i in range(0, len(drawn), CHUNK))
    augmented = _differs(lambda chosen: reader.place(read(chosen)), drawn[:_READ_TWICE])
    return Samples(batches, train_samples, augmented)


def _read_as(loader: Any) -> Read:
    """Reads a list of indices as the loader would; a loader that does not batch hands its data set the whole list."""
    if loader.batch_sampler is None:
        return lambda indices: loader.collate_fn(loader.dataset[list(indices)])
    return _read_each(loader.dataset, loader.collate_fn)


def _read_each(dataset: Any, collate: Callable[[Any], Any]) -> Read:
    fetch = getattr(dataset, "__getitems__", None)  # of which torch makes use, too
    return lambda indices: collate([dataset[i] for i in indices] if fetch is None else fetch(list(indices)))


def _differs(read: Read, indices: Sequence[int]) -> bool:
    """Whether two reads of the same indices differ."""
    first, second = flat_tensors(read(indices)), flat_tensors(read(indices))
    return len(first) != len(second) or any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
