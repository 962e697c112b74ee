"""Which indices of a data set training really draws from, found without iterating the user's loader."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
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

from lightning_gengap.samples.reader import no_samples
from lightning_gengap.undisturbed import random_streams_kept

_MOST_PASSES = 4


def trainable_indices(loader: Any, batches_per_epoch: float = float("inf")) -> Sequence[int] | None:
    """The distinct indices that training draws from; None for iterable data or an unknown container.

    A sampler of an unknown kind is asked through a copy, so that its own state does not move.

    Args:
        loader: the training loader, whatever the user gave.
        batches_per_epoch: how many of its batches an epoch uses. Only a sampler that goes through the data in order
            then leaves the rest untouched.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if loader.batch_sampler is None and not isinstance(sampler, BatchSampler):
        return None  # every item of the data set is a batch of its own
    with random_streams_kept():
        indices = _yielded_by(sampler, loader.dataset)
    if indices is not None and type(sampler) is BatchSampler and type(sampler.sampler) is SequentialSampler:
        indices = indices[: int(min(batches_per_epoch * sampler.batch_size, len(indices)))]
    if indices is not None and len(indices) == 0:
        raise no_samples(f"a loader over {type(loader.dataset).__name__} that yields no index")
    return indices


def _yielded_by(sampler: Any, dataset: Any) -> Sequence[int] | None:
    """The distinct indices that a sampler can yield: by its kind where that is known, else from a copy of it."""
    kind = type(sampler)  # not isinstance: a subclass may yield other indices than its parent
    if kind in (RandomSampler, SequentialSampler):
        return range(len(sampler.data_source))
    if kind is BatchSampler:
        return _yielded_by(sampler.sampler, dataset)
    if kind is SubsetRandomSampler:
        return sorted({int(i) for i in sampler.indices})
    if kind is WeightedRandomSampler:
        return [int(i) for i in torch.as_tensor(sampler.weights).nonzero()[:, 0]]
    if isinstance(sampler, DistributedSampler):  # a copy would yield one rank's share only
        wrapped = _wrapped_by_lightning(sampler)
        return range(len(sampler.dataset)) if wrapped is None else _yielded_by(wrapped, dataset)  # type: ignore[arg-type]
    try:
        most = _MOST_PASSES * len(dataset)  # some samplers never end
        yielded = list(islice(copy.deepcopy(sampler, {id(dataset): dataset}), most))
    except Exception:  # a sampler that cannot be copied: fall back to the batches of training
        return None
    flat = [i for item in yielded for i in (item if isinstance(item, list | tuple | Tensor) else [item])]
    return sorted({int(i) for i in flat})


def _wrapped_by_lightning(sampler: DistributedSampler[Any]) -> Any:
    """The user's sampler inside a `DistributedSamplerWrapper`, or None.

    Lightning puts the user's sampler, as if it were a data set, into a distributed one. The class exists twice, in
    `lightning` and in `lightning_fabric`, and is told by its name: nothing here depends on Lightning.
    """
    is_wrapper = any(kind.__name__ == "DistributedSamplerWrapper" for kind in type(sampler).__mro__)
    return getattr(sampler.dataset, "_sampler", None) if is_wrapper else None
