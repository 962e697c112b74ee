"""The fixed samples: drawn once from the indices that training draws from, without iterating the user's loader."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from lightning_gengap.errors import BatchError, out_of_memory
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.dataset_copy import private_copy
from lightning_gengap.samples.nested import copied, flat_tensors
from lightning_gengap.samples.reader import CHUNK, SampleReader, Samples, checked_batches, no_samples
from lightning_gengap.samples.trainable_indices import trainable_indices
from lightning_gengap.undisturbed import random_streams_kept

_READ_TWICE = 8  # samples; also how many tell whether a function mixes them

Collate = Callable[[Any], Any]


def draw_samples(
    loader: Any,
    reader: SampleReader,
    probe_data: Any = None,
    batches_per_epoch: float = float("inf"),
    keep: Iterable[Any] = (),
) -> Samples | None:
    """Read the monitored samples now, or return None where only the batches of training itself can be copied.

    They are read through private copies of the data set and the collate function, so that the user's own keep no trace.

    Args:
        loader: the training loader, whatever the user gave.
        reader: how to read.
        probe_data: a view of the training data without augmentation: a data set, a loader or batches. A data set of
            the training set's length is read at the indices that training draws from.
        batches_per_epoch: see `trainable_indices`.
        keep: objects that are never copied, see `private_copy`.
    """
    indices = trainable_indices(loader, batches_per_epoch)
    with random_streams_kept():
        if probe_data is not None:
            return _from_probe_data(probe_data, loader, indices, reader, tuple(keep))
        if indices is None:
            return None
        return _read_indices(_Source.of(loader, tuple(keep)), indices, reader, len(indices))


@dataclass(frozen=True)
class _Source:
    """Where lists of indices are read.

    Attributes:
        collate: from what is fetched to a batch.
        whole: whether the data set is handed the whole list, as a loader does that does not batch.
        loader: whose workers can be imitated; None for none.
        keep: objects that are not copied.
    """

    dataset: Any
    collate: Collate
    whole: bool = False
    loader: DataLoader[Any] | None = None
    keep: tuple[Any, ...] = ()

    @classmethod
    def of(cls, loader: DataLoader[Any], keep: tuple[Any, ...]) -> _Source:
        return cls(loader.dataset, loader.collate_fn, loader.batch_sampler is None, loader, keep)

    def batches(self, requests: Sequence[list[int]]) -> Generator[tuple[Any, tuple[str, ...]], None, None]:
        """The batch of each list of indices, and the kinds of the objects that were read without a copy.

        Where reading fails in this process, and the loader has workers, it is read in one worker of our own: its
        `worker_init_fn` may be what opens the data.
        """
        first, *others = requests
        with private_copy((self.dataset, self.collate), self.keep) as ((dataset, collate), shared):
            try:
                batch = self._read(dataset, collate, first)
            except Exception as error:
                if out_of_memory(error) or self.loader is None or self.loader.num_workers == 0:
                    raise
                failure = error
            else:
                yield batch, shared
                for request in others:
                    yield self._read(dataset, collate, request), shared
                return
        with private_copy((self.dataset, self.collate), self.keep) as ((dataset, collate), shared):
            batches = iter(self._worker(self.loader, dataset, collate, requests))
            try:
                batch = next(batches)
            except Exception as error:  # a worker cannot read them either
                raise failure from error
            yield batch, shared
            for batch in batches:
                yield batch, shared

    def _read(self, dataset: Any, collate: Collate, indices: list[int]) -> Any:
        if self.whole:
            return collate(dataset[indices])
        return collate(fetched(dataset, indices))

    def _worker(
        self, loader: DataLoader[Any], dataset: Any, collate: Collate, requests: Sequence[list[int]]
    ) -> DataLoader[Any]:
        """Reads the requests in one worker that is started as the loader's are. It draws no global random number."""
        how: dict[str, Any] = {"sampler": requests, "batch_size": None} if self.whole else {"batch_sampler": requests}
        return DataLoader(
            dataset,
            collate_fn=collate,
            num_workers=1,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            timeout=loader.timeout,
            prefetch_factor=1,
            generator=torch.Generator(),
            **how,
        )


def fetched(dataset: Any, indices: list[int]) -> Any:
    """The samples at these indices, as torch fetches them."""
    fetch = getattr(dataset, "__getitems__", None)
    return [dataset[i] for i in indices] if fetch is None else fetch(indices)


def _from_probe_data(
    data: Any, loader: Any, indices: Sequence[int] | None, reader: SampleReader, keep: tuple[Any, ...]
) -> Samples:
    train_samples = None if indices is None else len(indices)
    own, dataset = _indexed(data)
    if own is not None:
        if len(own) == 0:
            raise no_samples("probe_data of length 0")
        if indices is not None and len(dataset) == len(loader.dataset):
            own = indices
        if isinstance(data, DataLoader):
            source = _Source.of(data, keep)
        else:
            collates = isinstance(loader, DataLoader) and loader.batch_sampler is not None
            source = _Source(data, loader.collate_fn if collates else default_collate, keep=keep)
        return _read_indices(source, own, reader, train_samples)
    if not isinstance(data, Iterable):
        raise BatchError(
            "probe_data",
            got=type(data).__name__,
            expected="a dataset, a DataLoader or an iterable of batches",
            remedy="Pass an un-augmented view of the training set.",
        )
    return Samples(reader.take(map(copied, data)), train_samples, augmented=False)


def _indexed(data: Any) -> tuple[Sequence[int] | None, Any]:
    """The indices that probe data offer, and their data set; no indices where the data can only be iterated."""
    if isinstance(data, DataLoader):
        return trainable_indices(data), data.dataset
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return range(len(data)), data  # type: ignore[arg-type]
    return None, data


def _read_indices(source: _Source, indices: Sequence[int], reader: SampleReader, train_samples: int | None) -> Samples:
    drawn = reader.draw(indices)
    chunks = [drawn[i : i + CHUNK] for i in range(0, len(drawn), CHUNK)]
    again = drawn[:_READ_TWICE]
    kinds: tuple[str, ...] = ()
    batches: list[ProbeBatch] = []
    twice: list[Any] = []
    with closing(source.batches([*chunks, again, again])) as read:
        for batch, shared in read:
            kinds = shared
            if len(batches) < len(chunks):
                batches.append(reader.batch(batch))
            else:
                twice.append(reader.place(batch))
    return Samples(checked_batches(batches), train_samples, _differ(*twice), _notes(kinds))


def _notes(kinds: Sequence[str]) -> tuple[str, ...]:
    if not kinds:
        return ()
    return (
        f"samples are read through a copy of the data set, but its {', '.join(kinds)} cannot be copied: what "
        "reading changes in there stays changed",
    )


def _differ(one: Any, other: Any) -> bool:
    """Whether two batches hold different tensors."""
    first, second = flat_tensors(one), flat_tensors(other)
    return len(first) != len(second) or any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
