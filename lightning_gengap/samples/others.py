"""The training samples that are not monitored: read in chunks when they are asked for, and kept by nobody."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.reader import CHUNK, SampleReader
from lightning_gengap.samples.source import Source
from lightning_gengap.undisturbed import random_streams_kept


def _as_read(batch: ProbeBatch) -> ProbeBatch:
    return batch


@dataclass(frozen=True)
class Others:
    """What training draws from, less what is monitored.

    Attributes:
        source: reads them, through a private copy of the data set.
        indices: of all that training draws from; the monitored ones are those that `reader` draws.
        reader: as it reads the monitored ones.
        guard: what is around the reading; made anew each time.
        settle: makes a batch like those of the monitored samples.
    """

    source: Source
    indices: Sequence[int]
    reader: SampleReader
    guard: Callable[[], AbstractContextManager[Any]] = nullcontext
    settle: Callable[[ProbeBatch], ProbeBatch] = _as_read

    def __len__(self) -> int:
        return max(len(self.indices) - self.reader.samples, 0)

    def batches(self, stop: int, start: int = 0) -> Generator[ProbeBatch, None, None]:
        """Those from place `start` to `stop`, in the order in which more monitored samples would be drawn."""
        monitored = self.reader.samples
        wanted = min(stop, len(self))
        drawn = replace(self.reader, samples=monitored + wanted).draw(self.indices)[monitored + start :]
        chunks = [drawn[start : start + CHUNK] for start in range(0, len(drawn), CHUNK)]
        if not chunks:
            return
        with self.guard(), random_streams_kept(), closing(self.source.batches(chunks)) as read:
            for batch in read:
                yield self.settle(self.reader.batch(batch))
