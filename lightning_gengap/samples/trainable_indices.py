"""Which indices of a data set training really draws from, and how many of them it has met. No loader is iterated."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_gengap.samples.reader import no_samples
from lightning_gengap.undisturbed import random_streams_kept

_MOST_PASSES = 4


@dataclass(frozen=True)
class Trainable:
    """The indices that training draws from, and how many of them it has met.

    Attributes:
        indices: the distinct ones.
        epoch: the number of samples that one epoch draws, over all ranks.
        chances: of each index in one draw, where an epoch draws with replacement, shape (indices,); one number for all.
        copies: how often an epoch's order, before it is cut, holds each index where it draws without replacement.
        known: whether the counts below are known: not where every epoch takes others in an unknown way.
    """

    indices: Sequence[int]
    epoch: float
    chances: Tensor | float | None = None
    copies: Tensor | float = 1.0
    known: bool = True

    def met(self, epochs: float = math.inf) -> int | None:
        """How many distinct indices so many epochs hold, parts of one included: the expected number, rounded.

        It is exact where every epoch takes all of them, or where it takes the same ones. None where it is not known.
        """
        if not self.known:
            return None
        if math.isinf(epochs):
            return len(self.indices)
        missed = self._missed(self.epoch) ** int(epochs) * self._missed((epochs - int(epochs)) * self.epoch)
        return round(float((1 - missed).expand(len(self.indices)).sum()))

    def _missed(self, drawn: float) -> Tensor:
        """The chance of each index to be in none of `drawn` samples of one epoch."""
        if drawn == 0:
            return torch.ones((), dtype=torch.float64)
        if self.chances is not None:
            return (1 - torch.as_tensor(self.chances, dtype=torch.float64)) ** min(drawn, 1e18)
        copies = torch.as_tensor(self.copies, dtype=torch.float64)
        total = float(copies.sum()) if copies.ndim else float(copies) * len(self.indices)
        return torch.as_tensor(max(0.0, 1 - drawn / total), dtype=torch.float64) ** copies


def trainable(loader: Any, batches_per_epoch: float = math.inf) -> Trainable | None:
    """What training draws from; None for iterable data or an unknown container.

    A sampler of an unknown kind is asked through a copy, so that its own state does not move. A sample that a `Subset`
    or a `ConcatDataset` repeats counts once, under its first index.

    Args:
        loader: the training loader, whatever the user gave.
        batches_per_epoch: how many of its batches an epoch uses, on each rank.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if loader.batch_sampler is None and not isinstance(sampler, BatchSampler):
        return None  # every item of the data set is a batch of its own
    with random_streams_kept():
        found = _drawn_by(sampler, loader.dataset, batches_per_epoch)
    if found is not None and len(found.indices) == 0:
        raise no_samples(f"a loader over {type(loader.dataset).__name__} that yields no index")
    return None if found is None else _without_repeats(found, loader.dataset)


def _without_repeats(found: Trainable, dataset: Any) -> Trainable:
    """The same, each sample under one index alone: one that stands twice is still there when it is left out."""
    if type(dataset) not in (Subset, ConcatDataset):
        return found
    try:
        wanted = found.indices
        indices = torch.arange(len(wanted)) if wanted == range(len(wanted)) else torch.as_tensor(wanted)
        owners, within = origins(dataset, indices, {})
        keys = owners * (int(within.max()) + 1) + within
    except Exception:  # a Subset of names, say
        return found
    in_order = np.sort(keys.numpy())
    if not (in_order[1:] == in_order[:-1]).any():
        return found
    distinct, group = keys.unique(return_inverse=True)
    places = torch.full_like(distinct, len(keys)).scatter_reduce(0, group, torch.arange(len(keys)), "amin")
    first, order = places.sort()

    def together(each: Tensor | float) -> Tensor:
        spread = torch.as_tensor(each, dtype=torch.float64).expand(len(keys))
        return torch.zeros(len(distinct), dtype=torch.float64).index_add_(0, group, spread)[order]

    chances = None if found.chances is None else together(found.chances)
    return replace(found, indices=indices[first].tolist(), chances=chances, copies=together(found.copies))


def origins(dataset: Any, indices: Tensor, known: dict[int, int]) -> tuple[Tensor, Tensor]:
    """The data set that each of these samples is of in the end, as a number in `known`, and the index there."""
    if type(dataset) is Subset:  # not isinstance: a subclass may change the samples
        return origins(dataset.dataset, torch.as_tensor(np.asarray(dataset.indices))[indices], known)
    if type(dataset) is not ConcatDataset:
        return torch.full_like(indices, known.setdefault(id(dataset), len(known))), indices
    ends = torch.tensor(dataset.cumulative_sizes)
    parts = torch.searchsorted(ends, indices, right=True)
    owners, within = torch.empty_like(indices), torch.empty_like(indices)
    for place, part in enumerate(dataset.datasets):
        mine = parts == place
        owners[mine], within[mine] = origins(part, indices[mine] - (int(ends[place - 1]) if place else 0), known)
    return owners, within


def why_unknown(loader: Any) -> str:
    """Why `trainable` finds nothing in this loader, in words."""
    if isinstance(loader, Mapping | list | tuple):
        return f"{len(loader)} loaders are combined" if len(loader) > 1 else "the loader is in a container"
    if not isinstance(loader, DataLoader):
        return f"{type(loader).__name__} is no DataLoader of torch"
    if isinstance(loader.dataset, IterableDataset):
        return "the data can only be iterated"
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if loader.batch_sampler is None and not isinstance(sampler, BatchSampler):
        return f"each item of the {type(loader.dataset).__name__} is a batch"
    return f"the {type(getattr(sampler, 'sampler', sampler)).__name__} cannot be asked what it draws"


def trainable_indices(loader: Any, batches_per_epoch: float = math.inf) -> Sequence[int] | None:
    """The distinct indices of `trainable`; None where there is none."""
    found = trainable(loader, batches_per_epoch)
    return None if found is None else found.indices


def _drawn_by(sampler: Any, dataset: Any, most: float) -> Trainable | None:
    """What a sampler draws in epochs of `most` items: by its kind where that is known, else from a copy of it."""
    kind = type(sampler)  # not isinstance: a subclass may yield other indices than its parent
    if kind is BatchSampler and type(sampler.sampler) in _KINDS:
        most = min(most, len(sampler)) if sampler.drop_last else most
        return _drawn_by(sampler.sampler, dataset, most * sampler.batch_size)
    if kind in _KINDS:
        return _KINDS[kind](sampler, most)
    if kind is BatchSampler and isinstance(sampler.sampler, DistributedSampler):
        return _distributed(sampler.sampler, dataset, most * sampler.batch_size)
    if isinstance(sampler, DistributedSampler):
        return _distributed(sampler, dataset, most)
    return _copied(sampler, dataset, most)


def _sequential(sampler: Any, most: float) -> Trainable:
    length = int(min(most, len(sampler.data_source)))
    return Trainable(range(length), length)


def _random(sampler: Any, most: float) -> Trainable:
    length, epoch = len(sampler.data_source), min(most, sampler.num_samples)
    if sampler.replacement:
        return Trainable(range(length), epoch, chances=1 / max(length, 1))
    return Trainable(range(length), epoch)


def _subset(sampler: Any, most: float) -> Trainable:
    indices, copies = torch.as_tensor(sampler.indices, dtype=torch.long).unique(return_counts=True)
    return Trainable(indices.tolist(), min(most, len(sampler.indices)), copies=copies)


def _weighted(sampler: Any, most: float) -> Trainable:
    weights = torch.as_tensor(sampler.weights, dtype=torch.float64)
    (indices,) = weights.nonzero(as_tuple=True)
    epoch, chances = min(most, sampler.num_samples), weights[indices] / weights.sum()
    if sampler.replacement:
        return Trainable(indices.tolist(), epoch, chances=chances)
    equal = bool((chances == chances.max()).all())  # unequal ones without replacement follow no simple law
    return Trainable(indices.tolist(), epoch, known=equal or epoch >= len(indices))


def _distributed(sampler: Any, dataset: Any, most: float) -> Trainable | None:
    """What all ranks draw together; a copy would yield one rank's share only."""
    wrapped = _wrapped_by_lightning(sampler)
    if wrapped is not None:
        return _drawn_by(wrapped, dataset, most * sampler.num_replicas)
    length = len(sampler.dataset)
    epoch = min(most * sampler.num_replicas, sampler.total_size)
    if sampler.shuffle:
        return Trainable(range(length), min(epoch, length))
    length = int(min(epoch, length))
    return Trainable(range(length), length)


def _copied(sampler: Any, dataset: Any, most: float) -> Trainable | None:
    """What two epochs of a copy yield. Where they differ in more than their order, nobody knows what later ones do."""
    passes = []
    try:
        copied = copy.deepcopy(sampler, {id(dataset): dataset})
        torch.default_generator.manual_seed(0)  # the same samples in the next process
        for epoch in range(2):
            for each in (copied, getattr(copied, "sampler", None)):  # those that Lightning tells the epoch
                set_epoch = getattr(each, "set_epoch", None)
                if callable(set_epoch):
                    set_epoch(epoch)
            yielded = islice(copied, int(min(most, _MOST_PASSES * len(dataset))))
            passes.append([int(i) for item in yielded for i in (item if _is_many(item) else [item])])
    except Exception:  # a sampler that cannot be copied: fall back to the batches of training
        return None
    first, second = map(set, passes)
    return Trainable(sorted(first | second), len(passes[0]), known=first == second)


def _is_many(item: Any) -> bool:
    return isinstance(item, list | tuple) or (isinstance(item, Tensor) and item.ndim > 0)


_KINDS: dict[type, Callable[[Any, float], Trainable]] = {
    SequentialSampler: _sequential,
    RandomSampler: _random,
    SubsetRandomSampler: _subset,
    WeightedRandomSampler: _weighted,
}


def _wrapped_by_lightning(sampler: DistributedSampler[Any]) -> Any:
    """The user's sampler inside a `DistributedSamplerWrapper`, or None.

    Lightning puts the user's sampler, as if it were a data set, into a distributed one. The class exists twice, in
    `lightning` and in `lightning_fabric`, and is told by its name: nothing here depends on Lightning.
    """
    is_wrapper = any(kind.__name__ == "DistributedSamplerWrapper" for kind in type(sampler).__mro__)
    return getattr(sampler.dataset, "_sampler", None) if is_wrapper else None
