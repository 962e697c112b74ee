"""The randomization tests of Zhang et al. 2017: data sets whose labels or pixels are random, to check a gap on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from operator import index as as_index
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_gengap.errors import ConfigurationError, DataError
from lightning_gengap.undisturbed import random_streams_kept

Change = Callable[[Any, int], Any]


@dataclass(frozen=True, eq=False)
class Randomized(Dataset[tuple[Any, int]]):
    """A map-style dataset of (image, label) seen through changes that depend on the index only.

    Every read of an index gives the same change: it is constant over epochs, workers and machines, and no random
    stream is used up. Reference: Zhang et al. 2017 (arXiv 1611.03530).

    Attributes:
        dataset: what is wrapped.
        image, label: from (image, index) and (label, index) to what is given instead; None leaves them as they are.
    """

    dataset: Any
    image: Change | None = None
    label: Change | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        length = len(self)
        try:
            index = as_index(index)
        except TypeError:
            raise ConfigurationError(
                "index of a randomized data set",
                got=repr(index),
                expected="one integer",
                remedy="For several samples use torch.utils.data.Subset.",
            ) from None
        if not -length <= index < length:
            raise IndexError(f"index {index} of a data set of {length}")
        index %= length
        image, label = _pair(self.dataset[index])
        image = image if self.image is None else self.image(image, index)
        return image, _class_of(label) if self.label is None else self.label(label, index)


def corrupted_labels(dataset: Any, classes: int, probability: float, seed: int = 0) -> Randomized:
    """Each label replaced, independently with `probability`, by a class drawn uniformly (at times the same one).

    With one seed, the labels changed at a smaller probability are also changed, to the same, at a larger one.

    Raises:
        ConfigurationError: fewer than two classes, a probability outside [0, 1], a negative seed, no data set.
        DataError: when an item is read whose label is no class index, unless every label is replaced.
    """
    _check(dataset, seed)
    _require("classes", classes, isinstance(classes, int) and classes >= 2, "an integer of at least 2")
    _require("probability", probability, _is_share(probability), "a number in [0, 1]")
    return Randomized(dataset, label=partial(_corrupted, classes=classes, probability=probability, seed=seed))


def random_labels(dataset: Any, classes: int, seed: int = 0) -> Randomized:
    """Every label drawn uniformly, whatever the image: accuracy on new samples is 1 / classes.

    Raises:
        ConfigurationError: fewer than two classes, a negative seed, no data set.
    """
    return corrupted_labels(dataset, classes, 1.0, seed)


def shuffled_pixels(dataset: Any, seed: int = 0) -> Randomized:
    """One random permutation of the pixels for all images; wrap the test set with the same seed.

    A pixel is a position with all its channels: images are tensors of shape (channels, height, width), (height,
    width) or (features,).

    Raises:
        ConfigurationError: a negative seed, no data set.
    """
    _check(dataset, seed)
    return Randomized(dataset, image=partial(_permuted, seed=seed, each=False))


def random_pixels(dataset: Any, seed: int = 0) -> Randomized:
    """A permutation of its own for each image; give the test set another seed, as permutations go by index.

    Raises:
        ConfigurationError: a negative seed, no data set.
    """
    _check(dataset, seed)
    return Randomized(dataset, image=partial(_permuted, seed=seed, each=True))


def gaussian_inputs(dataset: Any, mean: Tensor, deviation: Tensor, seed: int = 0) -> Randomized:
    """Images of independent Gaussian pixels with the data's mean and deviation; labels as they are.

    Args:
        dataset: (image, label) pairs; the images give shape and dtype only.
        mean: per channel, from `channel_statistics` of the training set, for training and test set alike.
        deviation: per channel.
        seed: another one for the test set, as images go by index.

    Raises:
        ConfigurationError: a negative seed, no data set, a negative or non-finite deviation, a non-finite mean,
            or either of them no numbers.
    """
    _check(dataset, seed)
    mean, deviation = _numbers("mean", mean), _numbers("deviation", deviation)
    _require("mean", mean.tolist(), bool(mean.isfinite().all()), "finite numbers, one per channel")
    valid = bool((deviation.isfinite() & (deviation >= 0)).all())
    _require("deviation", deviation.tolist(), valid, "finite non-negative numbers, one per channel")
    return Randomized(dataset, image=partial(_gaussian, mean=mean, deviation=deviation, seed=seed))


def channel_statistics(dataset: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels of all images, float64; one pass over the data.

    Raises:
        DataError: the data set is empty, or its images are not float tensors.
    """
    total = square = torch.zeros(1, dtype=torch.float64)
    count = 0
    with random_streams_kept():
        for index in range(len(dataset)):
            rows = _positions(_tensor(_pair(dataset[index])[0])).double()
            total, square = total + rows.sum(dim=1), square + rows.square().sum(dim=1)
            count += rows.shape[1]
    if count == 0:
        raise DataError("data set", got="no sample", expected="at least one image", remedy="Check the data set.")
    mean = total / count
    return mean, (square / count - mean.square()).clamp(min=0).sqrt()


def _corrupted(label: Any, index: int, classes: int, probability: float, seed: int) -> int:
    draw = np.random.default_rng([seed, index])
    replaced = draw.random() < probability
    other = int(draw.integers(classes))
    own = other if probability == 1 else _class_of(label)  # checked for every index alike
    return other if replaced else own


def _permuted(image: Any, index: int, seed: int, each: bool) -> Tensor:
    image = _tensor(image)
    rows = _positions(image)
    order = np.random.default_rng([seed, index] if each else [seed]).permutation(rows.shape[1])
    return rows[:, torch.from_numpy(order)].reshape(image.shape)


def _gaussian(image: Any, index: int, mean: Tensor, deviation: Tensor, seed: int) -> Tensor:
    image = _tensor(image)
    shape = _positions(image).shape
    unit = torch.from_numpy(np.random.default_rng([seed, index]).standard_normal(shape))
    channels = (mean.double().reshape(-1, 1), deviation.double().reshape(-1, 1))
    if any(len(values) not in (1, shape[0]) for values in channels):
        raise ConfigurationError(
            "mean and deviation",
            got=f"{len(channels[0])} and {len(channels[1])} values for images of {shape[0]} channels",
            expected="one value per channel",
            remedy="Take them from channel_statistics(training_set).",
        )
    return (channels[0] + channels[1] * unit).to(image.dtype).reshape(image.shape)


def _positions(image: Tensor) -> Tensor:
    """The image as (channels, positions); without a channel axis there is one channel."""
    return image.reshape(image.shape[0], -1) if image.ndim >= 3 else image.reshape(1, -1)


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(
            "data set",
            got=f"an item of type {type(item).__name__}",
            expected="pairs (image, label)",
            remedy="Wrap the data set in one that returns such pairs.",
        )
    return item[0], item[1]


def _class_of(label: Any) -> int:
    """The label as a number; what `int` would round or fail on is refused."""
    try:
        number = int(label)
        valid = bool(number == label)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        valid = False
    if not valid:
        shape = tuple(getattr(label, "shape", ()))
        raise DataError(
            "label",
            got=f"a {type(label).__name__} of shape {shape}" if shape else repr(label),
            expected="one class index",
            remedy="Wrap the data set in one that returns such labels; of one-hot labels, label.argmax().",
        )
    return number


def _tensor(image: Any) -> Tensor:
    if not isinstance(image, Tensor) or not image.is_floating_point() or image.ndim == 0:
        got = f"a tensor of {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
        raise DataError(
            "image",
            got=got,
            expected="a float tensor",
            remedy="Convert images in the transform of the wrapped data set, before its pixels are randomized.",
        )
    return image


def _is_share(probability: Any) -> bool:
    return isinstance(probability, Real) and not isinstance(probability, bool) and 0 <= float(probability) <= 1


def _numbers(name: str, values: Any) -> Tensor:
    expected = "finite numbers, one per channel"
    try:
        numbers = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigurationError(
            name, got=repr(values), expected=expected, remedy="Take them from channel_statistics(training_set)."
        ) from None
    _require(name, numbers.tolist(), not numbers.is_complex(), expected)
    return numbers


def _check(dataset: Any, seed: int) -> None:
    sized = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    _require("dataset", type(dataset).__name__, sized, "a map-style data set, with a length and indices")
    _require("seed", seed, isinstance(seed, int) and seed >= 0, "a non-negative integer")


def _require(name: str, value: Any, valid: bool, expected: str) -> None:
    if not valid:
        raise ConfigurationError(name, got=str(value), expected=expected, remedy=f"Change {name}.")
