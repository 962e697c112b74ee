"""Which indices of a data set training really draws from, found without iterating the user's loader."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_gengap.errors import DataError
from lightning_gengap.undisturbed import random_streams_kept

_MOST_PASSES = 4


def trainable_indices(loader: Any, batches_per_epoch: float = float("inf")) -> Sequence[int] | None:
    """The distinct indices that training draws from; None for iterable data or an unknown container.

    A sampler of an unknown kind is asked through a copy, so that its own state does not move.

    Raises:
        DataError: the set is empty.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if loader.batch_sampler is None and not isinstance(sampler, BatchSampler):
        return None  # every item of the data set is a batch of its own
    with random_streams_kept():
        indices = _set_of(sampler, loader.dataset)
    if indices is not None and type(sampler) is BatchSampler and type(sampler.sampler) is SequentialSampler:
        indices = indices[: int(min(batches_per_epoch * sampler.batch_size, len(indices)))]
    if indices is not None and len(indices) == 0:
        raise no_samples(f"a loader over {type(loader.dataset).__name__} that yields no index")
    return indices


def _set_of(sampler: Any, dataset: Any) -> Sequence[int] | None:
    """The distinct indices a sampler can yield, by its kind where known, else from a copy of it."""
    kind = type(sampler)  # not isinstance: a subclass may yield other indices than its parent
    if kind in (RandomSampler, SequentialSampler):
        return range(len(sampler.data_source))
    if kind is BatchSampler:
        return _set_of(sampler.sampler, dataset)
    if kind is SubsetRandomSampler:
        return sorted({int(i) for i in sampler.indices})
    if kind is WeightedRandomSampler:
        return [int(i) for i in torch.as_tensor(sampler.weights).nonzero()[:, 0]]
    if isinstance(sampler, DistributedSamplerWrapper):  # Lightning's, around a sampler of the user's
        return _set_of(sampler.dataset._sampler, dataset)  # type: ignore[attr-defined]
    if isinstance(sampler, DistributedSampler):  # a copy would yield one rank's share only
        return range(len(sampler.dataset))  # type: ignore[arg-type]
    try:
        most = _MOST_PASSES * len(dataset)  # some samplers never end
        yielded = list(islice(copy.deepcopy(sampler, {id(dataset): dataset}), most))
    except Exception:  # a sampler that cannot be copied: fall back to the batches of training
        return None
    flat = [i for item in yielded for i in (item if isinstance(item, list | tuple | Tensor) else [item])]
    return sorted({int(i) for i in flat})


def no_samples(got: str) -> DataError:
    """The refusal of training data without a single sample."""
    expected = "at least one labelled sample"
    return DataError("training samples", got=got, expected=expected, remedy="Check the data set and its sampler.")
