"""Batches put into the order in which a monitor draws samples, so that what is drawn by place is the same."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.nested import joined, rows_of
from lightning_gengap.samples.reader import CHUNK, SampleReader


def loader_in_drawn_order(loader: DataLoader[Any], indices: Sequence[int], reader: SampleReader) -> DataLoader[Any]:
    """A loader over the drawn ones of these indices that reads and collates them as the given one does."""
    drawn: Any = reader.draw(indices)
    batch_size: int | None = CHUNK
    if loader.batch_sampler is None:  # it hands its data set a list of indices
        batch_size, drawn = None, [drawn[i : i + CHUNK] for i in range(0, len(drawn), CHUNK)]
    return DataLoader(
        loader.dataset,
        batch_size,
        sampler=drawn,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
    )


def in_drawn_order(batches: Sequence[ProbeBatch], reader: SampleReader) -> tuple[ProbeBatch, ...]:
    """The drawn samples of these batches, in chunks. Batches that cannot be joined stay as they are, up to the number.

    The new ones are copies, so that both are in memory at once.
    """
    starts = list(accumulate((len(batch.targets) for batch in batches), initial=0))
    order = reader.draw(range(starts[-1]))
    chunks = [order[i : i + CHUNK] for i in range(0, len(order), CHUNK)]
    try:
        return tuple(reader.batch(_gathered(batches, starts, chunk)) for chunk in chunks)
    except (RuntimeError, TypeError, ValueError, KeyError):  # of different shapes or structures
        return first_batches(batches, reader)


def _gathered(batches: Sequence[ProbeBatch], starts: Sequence[int], chunk: Sequence[int]) -> Any:
    """The content of the samples at these places, in this order."""
    rows: dict[int, list[int]] = {}
    for place in sorted(chunk):
        rows.setdefault(bisect_right(starts, place) - 1, []).append(place)
    parts = [
        (rows_of(batches[i].content, torch.tensor(places) - starts[i], len(batches[i].targets)), len(places))
        for i, places in rows.items()
    ]
    while len(parts) > 1:  # in pairs: each sample is copied a few times only
        pairs = [
            (joined(first, second, size, more), size + more)
            for (first, size), (second, more) in zip(parts[::2], parts[1::2], strict=False)
        ]
        parts = pairs + parts[2 * len(pairs) :]
    return rows_of(parts[0][0], torch.tensor(chunk).argsort().argsort(), len(chunk))


def first_batches(batches: Sequence[ProbeBatch], reader: SampleReader) -> tuple[ProbeBatch, ...]:
    """The first batches, up to the number of samples; the last one is whole."""
    taken: list[ProbeBatch] = []
    for batch in batches:
        if reader.has_enough(taken):
            break
        taken.append(batch)
    return tuple(taken)
