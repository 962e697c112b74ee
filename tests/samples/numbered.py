"""Samples that are numbers, so that what was read tells its index."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import TensorDataset

from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.reader import SampleReader, Samples

READER = SampleReader(samples=1024)


def numbered(examples: int = 40) -> TensorDataset:
    """Sample i is the number i; classes alternate."""
    return TensorDataset(torch.arange(examples).float()[:, None], torch.arange(examples) % 2)


def drawn(loader: Any, reader: SampleReader = READER, **arguments: Any) -> Samples:
    """The monitored samples of a loader that has some."""
    samples = draw_samples(loader, reader, **arguments)
    assert samples is not None
    return samples


def numbers(samples: Samples) -> list[int]:
    """The indices of numbered samples, in the order read."""
    return [int(value) for batch in samples.batches for value in batch.content[0][:, 0]]
