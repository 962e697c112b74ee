"""Copies of the first batches of training, for data that cannot be indexed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.nested import copied
from lightning_gengap.samples.reader import SampleReader, Samples, checked_batches


@dataclass
class FirstBatches:
    """Copies of the first batches of training, up to the number of samples.

    Attributes:
        reader: how to read them; they are on their device already.
        kept: the copies.
    """

    reader: SampleReader
    kept: list[ProbeBatch] = field(default_factory=list)

    def add(self, batch: Any) -> None:
        """Copy a batch of training, unless there are enough samples.

        Raises:
            BatchError, TargetError: it is not understood.
        """
        if len(self.samples()) < self.reader.samples:
            self.kept.append(self.reader.batch(copied(batch)))

    def samples(self) -> Samples:
        """What was kept so far."""
        return Samples(tuple(self.kept), train_samples=None, augmented=False)

    def checked(self) -> Samples:
        """What was kept, once the first epoch has ended.

        Raises:
            DataError: there is no sample, or all samples are of one class.
        """
        checked_batches(self.kept)
        return self.samples()
