"""The orders in which loaders draw from data."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any

import torch
from torch.utils.data import BatchSampler, RandomSampler, Subset, SubsetRandomSampler, WeightedRandomSampler

from tests.streams import Stream


def half_of(data: Sized) -> list[int]:
    """Every second index, in another order than the data."""
    return list(range(0, len(data), 2))[::-1]


def _weighted(data: Sized) -> WeightedRandomSampler:
    return WeightedRandomSampler([float(index % 2 == 0) for index in range(len(data))], len(data))


# By name, from a data set of at least 14 samples to arguments of its loader.
ORDERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "in order": lambda data: {},
    "shuffled": lambda data: {"shuffle": True},
    "own generator": lambda data: {"sampler": RandomSampler(data, generator=torch.Generator().manual_seed(5))},
    "with replacement": lambda data: {"sampler": RandomSampler(data, replacement=True, num_samples=len(data))},
    "subset": lambda data: {"dataset": Subset(data, half_of(data)), "shuffle": True},
    "random half": lambda data: {"sampler": SubsetRandomSampler(half_of(data))},
    "weighted": lambda data: {"sampler": _weighted(data)},
    "batch sampler": lambda data: {
        "batch_sampler": BatchSampler(RandomSampler(data), 7, False),
        "batch_size": 1,
        "drop_last": False,
    },
    "stream": lambda data: {"dataset": Stream(data)},
}
