"""The fixed samples: drawn once from the indices that training draws from, without iterating the user's loader."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from lightning_gengap.errors import BatchError, GapError
from lightning_gengap.free_memory import SHARE, available
from lightning_gengap.samples.batches import ProbeBatch, targets_of
from lightning_gengap.samples.dataset_copy import private_copy
from lightning_gengap.samples.mixing import EXAMPLES, examples_in, mixes
from lightning_gengap.samples.nested import copied, flat_tensors, rows_of
from lightning_gengap.samples.others import Others
from lightning_gengap.samples.reader import CHUNK, SampleReader, Samples, checked_batches, no_samples
from lightning_gengap.samples.source import COLLATE_MIXES, Source
from lightning_gengap.samples.trainable_indices import trainable_indices
from lightning_gengap.undisturbed import random_streams_kept

_READ_TWICE = 8
_HOOKS_MIX = (
    "the batch transfer hooks mix samples, so probe_data are moved to the device without them; if the hooks also "
    "normalise, let them mix only `if self.trainer.training`"
)
_MIXES = {_HOOKS_MIX, COLLATE_MIXES}


def draw_samples(
    loader: Any,
    reader: SampleReader,
    probe_data: Any = None,
    batches_per_epoch: float = float("inf"),
    keep: Iterable[Any] = (),
) -> Samples | None:
    """Read the monitored samples now, or return None where only the batches of training itself can be copied.

    They are read through private copies of the data set and the collate function, so that the user's own keep no trace.
    The samples that are not monitored can be read so later.

    Args:
        loader: the training loader, whatever the user gave.
        reader: how to read.
        probe_data: a view of the training data without augmentation: a data set, a sequence of samples, a loader or
            batches. A data set of the training set's length is read at the indices that training draws from.
        batches_per_epoch: see `trainable_indices`.
        keep: objects that are never copied, see `private_copy`.
    """
    indices = trainable_indices(loader, batches_per_epoch)
    with random_streams_kept():
        if probe_data is not None:
            samples = _from_probe_data(probe_data, loader, indices, reader, tuple(keep))
            return replace(samples, copied=_copied(loader, indices, reader, tuple(keep)))
        if indices is None:
            return None
        source = Source.of(loader, tuple(keep))
        samples = _read_indices(source, indices, reader, len(indices))
        return replace(samples, others=Others(source, indices, reader), copied=samples.augmented)


def check_probe_data(data: object) -> None:
    """Refuse what no samples can be read from.

    Raises:
        BatchError: it is no data set, no loader and no iterable.
    """
    check_data(data, "probe_data", "Pass an un-augmented view of the training set.")


def check_data(data: object, name: str, remedy: str) -> None:
    """Refuse what no samples can be read from, under the name of an argument.

    Raises:
        BatchError: it is no data set, no loader and no iterable.
    """
    if not isinstance(data, Dataset | Iterable):
        raise BatchError(
            name,
            got=type(data).__name__,
            expected="a dataset, a DataLoader or an iterable of batches",
            remedy=remedy,
        )


def size_of_data(data: Any) -> int | None:
    """How many samples there are to read; None where they can only be iterated."""
    own, _ = _indexed(data)
    return None if own is None else len(own)


def _from_probe_data(
    data: Any, loader: Any, indices: Sequence[int] | None, reader: SampleReader, keep: tuple[Any, ...]
) -> Samples:
    check_probe_data(data)
    train_samples = None if indices is None else len(indices)
    own, dataset = _indexed(data)
    if own is not None and len(own) == 0:
        raise no_samples("probe_data of length 0")
    if own is not None and indices is not None and len(dataset) == len(loader.dataset):
        own = indices
    return _read(data, own, loader, reader, keep, train_samples)


def read_whole(data: Any, loader: Any, reader: SampleReader, keep: Iterable[Any] = ()) -> Samples:
    """Read all samples of a data set, a sequence of samples, a loader or batches, in the way of `draw_samples`.

    Data without a collate function of their own are collated as the training `loader` does it.
    """
    own, _ = _indexed(data)
    reader = replace(reader, samples=sys.maxsize if own is None else len(own))
    with random_streams_kept():
        return _read(data, own, loader, reader, tuple(keep), None)


def _read(
    data: Any,
    own: Sequence[int] | None,
    loader: Any,
    reader: SampleReader,
    keep: tuple[Any, ...],
    train_samples: int | None,
) -> Samples:
    """Samples of data other than the training set's: those drawn among their `own` indices, or the first batches."""
    if own is not None:
        if isinstance(data, DataLoader):
            source = Source.of(data, keep)
        else:
            own_loader = loader if isinstance(loader, DataLoader) and loader.batch_sampler is not None else None
            collate = default_collate if own_loader is None else own_loader.collate_fn
            source = Source(data, collate, loader=own_loader, keep=keep, plain=True)
        return _read_indices(source, own, reader, train_samples, plain=True)
    notes: list[str] = []
    with private_copy(data, keep) as (copied_data, _):
        taken = _taken(copied_data, reader, notes)
    return Samples(taken, train_samples, augmented=False, notes=tuple(notes))


def _taken(data: Iterable[Any], reader: SampleReader, notes: list[str]) -> tuple[ProbeBatch, ...]:
    """The first batches of probe data, whose hooks may mix."""
    batches = map(copied, data)
    first = next(iter(batches), None)
    if first is None:
        return checked_batches([])
    reader = _without_mixing(reader, first, notes)
    return reader.take(chain([first], batches))


def _without_mixing(reader: SampleReader, batch: Any, notes: list[str]) -> SampleReader:
    """The reader, without the transfer hooks where they mix the samples of this batch."""
    examples = examples_in(batch)
    some = rows_of(batch, torch.arange(min(EXAMPLES, examples)), examples)
    count = examples_in(some)

    def apply(positions: list[int]) -> Any:
        return reader.place(copied(rows_of(some, torch.tensor(positions), count)))

    if reader.move is None or count < 2 or not mixes(apply, count, some):
        return reader
    notes.append(_HOOKS_MIX)
    return replace(reader, place=reader.move)


def _indexed(data: Any) -> tuple[Sequence[int] | None, Any]:
    """The indices that probe data offer, and their data set; no indices where the data can only be iterated."""
    if isinstance(data, DataLoader):
        return trainable_indices(data), data.dataset
    if (isinstance(data, Dataset) and not isinstance(data, IterableDataset)) or _holds_samples(data):
        return range(len(data)), data
    return None, data


def _holds_samples(data: Any) -> bool:
    """Whether a sequence holds single samples and no batches: its labels are numbers."""
    if not isinstance(data, Sequence) or isinstance(data, str) or len(data) == 0:
        return False
    try:
        label = targets_of(data[0])
    except GapError:
        return False
    return isinstance(label, int) or getattr(label, "ndim", None) == 0


def _read_indices(
    source: Source, indices: Sequence[int], reader: SampleReader, train_samples: int | None, plain: bool = False
) -> Samples:
    drawn = reader.draw(indices)
    chunks = [drawn[i : i + CHUNK] for i in range(0, len(drawn), CHUNK)]
    again = drawn[:_READ_TWICE]
    batches: list[ProbeBatch] = []
    twice: list[Any] = []
    with closing(source.batches([*chunks, again, again])) as read:
        for batch in read:
            if plain and not batches:
                reader = _without_mixing(reader, batch, source.notes)
            if len(batches) < len(chunks):
                batches.append(_read_batch(reader, batch, unmixed=not _MIXES.isdisjoint(source.notes)))
                _require_room(batches, len(drawn))
            else:
                twice.append(reader.place(batch))
    return Samples(checked_batches(batches), train_samples, _differ(*twice), tuple(source.notes), drawn=drawn)


def _require_room(batches: Sequence[ProbeBatch], wanted: int) -> None:
    """Raise `MemoryError` once so many samples like those of the first batch do not fit into the CPU's memory."""
    if len(batches) > 1:
        return
    held = [tensor for tensor in flat_tensors(batches[0].content) if tensor.layout == torch.strided]
    size = sum(tensor.nbytes for tensor in held if tensor.device.type == "cpu" and not tensor.is_nested)
    more, left = size * (wanted / len(batches[0].targets) - 1), available()
    if left is not None and more > SHARE * left:
        raise MemoryError(f"{wanted} samples take {more / 2**20:,.0f} MiB more, and {left / 2**20:,.0f} are left")


def _read_batch(reader: SampleReader, batch: Any, unmixed: bool) -> ProbeBatch:
    """The batch; where it was kept from mixing, a `target` that is made for mixed labels may not fit it."""
    try:
        return reader.batch(batch)
    except Exception:
        if not unmixed or reader.target is None:
            raise
        return replace(reader, target=None).batch(batch)


def _copied(loader: Any, indices: Sequence[int] | None, reader: SampleReader, keep: tuple[Any, ...]) -> bool | None:
    """Whether two reads of one index of the training data differ; None where that cannot be told."""
    if indices is None:
        return None
    drawn = replace(reader, samples=_READ_TWICE).draw(indices)
    try:
        with closing(Source.of(loader, keep).batches([drawn, drawn])) as read:
            return _differ(*(reader.place(batch) for batch in read))
    except Exception:  # the user's data set, which is not what is monitored
        return None


def _differ(one: Any, other: Any) -> bool:
    """Whether two batches hold different tensors."""
    first, second = flat_tensors(one), flat_tensors(other)
    return len(first) != len(second) or any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
