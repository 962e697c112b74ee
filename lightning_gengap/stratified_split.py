"""Samples that are set aside, or trained on, by class: each class has its share."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Subset

from lightning_gengap.errors import ConfigurationError, DataError
from lightning_gengap.samples.labels import Labels, labels_of

Indices = NDArray[np.int64]
Sizes = NDArray[np.int64]

FEWEST = 10  # held-out samples: of fewer, the accuracy says next to nothing


def hold_out(dataset: Any, m: int, seed: int = 0, labels: Any = None) -> tuple[Subset[Any], Subset[Any]]:
    """Set m samples aside, which training must not see: `trainer.fit` gets the rest, `GapMonitor(held_out=)` these.

    Every class gives its share of m, to the sample: its exact share is rounded by largest remainder. It keeps at least
    one sample in the rest. Equal arguments give equal parts. The data set keeps no trace, and the random streams of
    the process stay as they are. docs/hold_out.md says how many samples to set aside, and what it costs.

    Args:
        dataset: a map-style data set of pairs (input, label), or of mappings or objects with one usual name for the
            label. Inputs are read only where it does not hold its labels as `targets`, `labels` or a tensor.
        m: how many, from 10 to half of the samples.
        seed: of the draw.
        labels: the class index of each sample, for other data sets.

    Returns:
        The rest and the m samples, both as a `Subset` of the data set in its order, with its transforms.

    Raises:
        ConfigurationError: m is no whole number, below 10 or more than half of the samples, or the seed is none.
        DataError: data that can only be iterated, without class indices, or with too few samples a class.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_gengap import hold_out
        >>> labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
        >>> rest, held_out = hold_out(TensorDataset(torch.rand(100, 4), labels), 20)
        >>> len(rest), labels[held_out.indices].bincount().tolist()
        (80, [12, 6, 2])
    """
    _require_whole("m", m, FEWEST)
    _require_whole("seed", seed, 0)
    classes = labels_of(dataset, labels)
    if m > len(classes) // 2:
        raise ConfigurationError(
            "hold_out(m=)",
            got=f"{m} of {len(classes)} samples",
            expected="half of them at most",
            remedy="Hold fewer out, or read docs/hold_out.md for what else there is where samples are few.",
        )
    _, of_class, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    if m > (sizes - 1).sum():
        raise DataError(
            "data set",
            got=f"{len(sizes)} classes in {len(classes)} samples",
            expected=f"so many samples a class that each keeps one when {m} are set aside",
            remedy="Hold fewer out, or merge rare classes.",
        )
    counts = apportioned(sizes, int(m))
    held = rank_in_class(of_class, int(seed)) < counts[of_class]
    return Subset(dataset, np.flatnonzero(~held).tolist()), Subset(dataset, np.flatnonzero(held).tolist())


def apportioned(sizes: Sizes, m: int) -> Sizes:
    """How many of m samples each class gives: its share rounded by largest remainder, less than all that it has.

    >>> apportioned(np.array([60, 30, 9, 1]), 10).tolist()
    [6, 3, 1, 0]
    """
    shares = sizes * m / sizes.sum()
    counts = np.minimum(np.floor(shares).astype(np.int64), sizes - 1)
    while (missing := m - int(counts.sum())) > 0:
        order = np.argsort(-np.where(counts < sizes - 1, shares - counts, -np.inf), kind="stable")
        open_ = order[counts[order] < sizes[order] - 1]
        counts[open_[:missing]] += 1
    return counts


def rank_in_class(of_class: Indices, seed: int) -> Indices:
    """The place of each sample in a seeded order of its class, from 0 on."""
    shuffled = np.random.default_rng(seed).permutation(len(of_class))
    by_class = shuffled[np.argsort(of_class[shuffled], kind="stable")]
    sorted_classes = of_class[by_class]
    first = np.searchsorted(sorted_classes, sorted_classes, side="left")
    ranks = np.empty(len(of_class), np.int64)
    ranks[by_class] = np.arange(len(of_class)) - first
    return ranks


def stratified_order(labels: Labels, seed: int) -> Indices:
    """All indices in a seeded order whose beginnings are nested and stratified, whatever their length.

    One sample of each class comes first. After that each class has its share of every beginning, rounded (the method
    of Webster, in which no share falls when the beginning grows).

    >>> labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    >>> [sorted(labels[stratified_order(labels, seed=0)[:size]].tolist()) for size in (2, 4)]
    [[0, 1], [0, 0, 0, 1]]
    """
    _, of_class, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    ranks = rank_in_class(of_class, seed)
    places = np.where(ranks == 0, 0.0, (ranks + 0.5) / sizes[of_class])
    ties = np.random.default_rng([seed, 1]).permutation(len(labels))
    return np.lexsort((ties, places))


def _require_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ConfigurationError(
            f"hold_out({name}=)",
            got=repr(value),
            expected=f"a whole number of at least {least}",
            remedy="For example hold_out(dataset, 200, seed=0).",
        )
