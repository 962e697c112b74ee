"""Data that can only be iterated, and a sampler that gives other samples in each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import IterableDataset, Sampler


class Stream(IterableDataset[Any]):
    """Samples without length or index, in the order that is made of their number at each pass."""

    def __init__(self, data: Any, order: Callable[[int], Iterable[int]] = range) -> None:
        self.data, self.order = data, order

    def __iter__(self) -> Iterator[Any]:
        return (self.data[index] for index in self.order(len(self.data)))


class Parts(Sampler[int]):
    """Another quarter of 64 samples in each epoch."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch % 4, 64, 4))

    def __len__(self) -> int:
        return 16
