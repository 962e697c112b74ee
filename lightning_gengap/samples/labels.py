"""The class of every sample of a data set, without reading inputs where the data set itself holds the classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset

from lightning_gengap.errors import DataError, GapError, sentence
from lightning_gengap.samples.batches import TARGET_KEYS
from lightning_gengap.samples.dataset_copy import private_copy
from lightning_gengap.samples.pairs import class_of, pair_of
from lightning_gengap.undisturbed import random_streams_kept

Labels = NDArray[np.int64]

_ATTRIBUTES = ("targets", "labels", "_labels")  # where the data sets of torchvision and others keep them
_CLASSES_READ, _OTHERS_READ = 64, 16  # samples by which they are checked: one a class, and some more
_REMEDY = "Pass labels=, one class index for each sample."


def labels_of(dataset: Any, given: Any = None) -> Labels:
    """The class of every sample, shape (samples,). The data set keeps no trace of the reads.

    The classes are taken from the tensors of a `TensorDataset`, or from an attribute `targets` or `labels`, through
    `Subset` and `ConcatDataset`. Some samples are read, one of each class among them: where their classes differ from
    those, as behind a transform of the labels, and where there are none, all samples are read.

    Args:
        dataset: a map-style data set of pairs (input, label), or of mappings or objects with one usual name for the
            label.
        given: the classes, for other data sets.

    Raises:
        DataError: data that can only be iterated, no label or no class index in a sample, a sample that cannot be
            read, or another number of `given` classes than of samples.
    """
    size = _size_of(dataset)
    if given is not None:
        return _checked(given, size)
    with random_streams_kept(), private_copy(dataset) as (copied, _):
        held = _held(copied)
        if held is not None and len(held) == size and _agree(copied, held):
            return held
        return np.fromiter((_read(copied, index) for index in range(size)), np.int64, size)


def _size_of(dataset: Any) -> int:
    try:
        if not isinstance(dataset, IterableDataset) and hasattr(type(dataset), "__getitem__"):
            return len(dataset)
    except TypeError:  # it has no length
        pass
    raise DataError(
        "data set",
        got=f"a {type(dataset).__name__}, whose samples have no index",
        expected="a map-style data set, with a length and an item for each index",
        remedy="Read the samples into one first; of a DataLoader, pass its dataset.",
    )


def _checked(given: Any, size: int) -> Labels:
    labels = _as_classes(given)
    if labels is None or len(labels) != size:
        got = type(given).__name__ if labels is None else f"{len(labels)} of them"
        raise DataError("labels", got=got, expected=f"{size} class indices, one a sample", remedy="Pass them in order.")
    return labels


def _held(dataset: Any) -> Labels | None:
    """The classes as the data set holds them; None where it is not known to."""
    if isinstance(dataset, Subset):
        inner = _held(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices, np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [_held(part) for part in dataset.datasets]
        whole = [part for part in parts if part is not None]
        return np.concatenate(whole) if whole and len(whole) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        return _as_classes(dataset.tensors[1]) if len(dataset.tensors) == 2 else None
    found = (_as_classes(getattr(dataset, name, None)) for name in _ATTRIBUTES)
    return next((labels for labels in found if labels is not None and len(labels) == len(dataset)), None)


def _as_classes(values: Any) -> Labels | None:
    """Whole numbers in one row; None for anything else."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    if not isinstance(values, np.ndarray | list | tuple):
        return None
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        return None
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    return array.astype(np.int64) if array.ndim == 1 and array.dtype.kind in "iub" else None


def _agree(dataset: Any, held: Labels) -> bool:
    """Whether samples that are read have the classes that the data set holds."""
    return all(_read(dataset, index) == held[index] for index in _tried(held))


def _tried(held: Labels) -> Iterator[int]:
    first = np.unique(held, return_index=True)[1][:_CLASSES_READ]
    others = np.random.default_rng(0).integers(0, len(held), _OTHERS_READ) if len(held) else ()
    yield from (int(index) for index in (*first, *others))


def _read(dataset: Any, index: int) -> int:
    """The class of one sample."""
    try:
        return class_of(_label_in(dataset[index]))
    except GapError as error:
        raise DataError("data set", **{**error.parts, "remedy": _REMEDY}) from error
    except Exception as error:  # the user's code may raise anything
        raise DataError(
            "data set", got=sentence(error), expected=f"a sample at index {index}", remedy=_REMEDY
        ) from error


def _label_in(item: Any) -> Any:
    """The label in a sample: the second of a pair, or what has the one usual name."""
    if isinstance(item, torch.Tensor | Sequence):
        return pair_of(item)[1]
    held = item if isinstance(item, Mapping) else getattr(item, "__dict__", {})
    names = [name for name in TARGET_KEYS if name in held]
    return held[names[0]] if len(names) == 1 else pair_of(item)[1]
