"""The randomization tests of Zhang et al. 2017: data sets whose labels or pixels are random, to check a gap on.

A network that fits random labels has learnt nothing that generalizes: its gap is known, and a prediction can be held
against it. Every wrapper takes a map-style data set of pairs (image, label) and is one itself.
"""

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
from lightning_gengap.samples.pairs import class_of, float_image, pair_of
from lightning_gengap.undisturbed import random_streams_kept

Change = Callable[[Any, int], Any]


@dataclass(frozen=True, eq=False)
class Randomized(Dataset[tuple[Any, int]]):
    """A data set of pairs (image, label), each changed in a way that depends on its index only.

    The same index gives the same change at every read, so the data are constant over epochs, workers and machines. No
    random stream is used up. Reference: Zhang et al. 2017 (arXiv 1611.03530).

    Attributes:
        dataset: what is wrapped.
        image: from (image, index) to the image given instead; None leaves images as they are.
        label: from (label, index) to the label given instead; None leaves labels as they are.
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
        image, label = pair_of(self.dataset[index])
        image = image if self.image is None else self.image(image, index)
        return image, class_of(label) if self.label is None else self.label(label, index)


def corrupted_labels(dataset: Any, classes: int, probability: float, seed: int = 0) -> Randomized:
    """Replace each label, with the given probability, by a class drawn uniformly.

    The draws are independent, and the class drawn may be the true one. With one seed, the labels that change at a
    smaller probability change at a larger one too, to the same classes.

    Args:
        dataset: pairs (image, label).
        classes: the number of classes, at least 2.
        probability: of a replacement, in [0, 1].
        seed: of the draws.

    Raises:
        ConfigurationError: fewer than two classes, a probability outside [0, 1], a negative seed, no data set.
        DataError: when an item is read whose label is no class index, unless every label is replaced.

    Example:
        >>> digits = torch.utils.data.TensorDataset(torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.long))
        >>> [label for _, label in corrupted_labels(digits, classes=10, probability=0.5)]
        [0, 0, 2, 0, 0, 8, 5, 2]
    """
    _check(dataset, seed)
    _require("classes", classes, isinstance(classes, int) and classes >= 2, "an integer of at least 2")
    _require("probability", probability, _is_share(probability), "a number in [0, 1]")
    return Randomized(dataset, label=partial(_corrupted, classes=classes, probability=probability, seed=seed))


def random_labels(dataset: Any, classes: int, seed: int = 0) -> Randomized:
    """Draw every label uniformly, whatever the image: the accuracy on new samples is 1 / classes.

    Args:
        dataset: pairs (image, label); the labels may be anything.
        classes: the number of classes, at least 2.
        seed: of the draws.

    Raises:
        ConfigurationError: fewer than two classes, a negative seed, no data set.

    Example:
        >>> digits = torch.utils.data.TensorDataset(torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.long))
        >>> [label for _, label in random_labels(digits, classes=10)]
        [5, 9, 2, 9, 4, 8, 5, 2]
    """
    return corrupted_labels(dataset, classes, 1.0, seed)


def shuffled_pixels(dataset: Any, seed: int = 0) -> Randomized:
    """Permute the pixels of all images in one random way.

    A pixel is a position with all its channels.

    Args:
        dataset: pairs (image, label); the images are float tensors of shape (channels, height, width), (height,
            width) or (features,).
        seed: of the permutation; give training and test set the same one.

    Raises:
        ConfigurationError: a negative seed, no data set.

    Example:
        >>> rows = torch.utils.data.TensorDataset(torch.arange(12.0).reshape(2, 6), torch.tensor([0, 1]))
        >>> [image.tolist() for image, _ in shuffled_pixels(rows)]
        [[3.0, 2.0, 5.0, 4.0, 0.0, 1.0], [9.0, 8.0, 11.0, 10.0, 6.0, 7.0]]
    """
    _check(dataset, seed)
    return Randomized(dataset, image=partial(_permuted, seed=seed, each=False))


def random_pixels(dataset: Any, seed: int = 0) -> Randomized:
    """Permute the pixels of each image in a random way of its own.

    Args:
        dataset: pairs (image, label), as for `shuffled_pixels`.
        seed: of the permutations, which go by index; give the test set another one than the training set.

    Raises:
        ConfigurationError: a negative seed, no data set.

    Example:
        >>> rows = torch.utils.data.TensorDataset(torch.arange(12.0).reshape(2, 6), torch.tensor([0, 1]))
        >>> [image.tolist() for image, _ in random_pixels(rows)]
        [[3.0, 2.0, 5.0, 4.0, 0.0, 1.0], [7.0, 10.0, 9.0, 6.0, 8.0, 11.0]]
    """
    _check(dataset, seed)
    return Randomized(dataset, image=partial(_permuted, seed=seed, each=True))


def gaussian_inputs(dataset: Any, mean: Tensor, deviation: Tensor, seed: int = 0) -> Randomized:
    """Replace the images by independent Gaussian pixels; the labels stay.

    Args:
        dataset: pairs (image, label); the images give shape and dtype only.
        mean: per channel, from `channel_statistics` of the training set, for training and test set alike.
        deviation: per channel, likewise.
        seed: of the images, which go by index; give the test set another one than the training set.

    Raises:
        ConfigurationError: a negative seed, no data set, a negative or non-finite deviation, a non-finite mean,
            or either of them no numbers. When an item is read: their number is not that of the channels.

    Example:
        >>> photos = torch.utils.data.TensorDataset(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
        >>> image, label = gaussian_inputs(photos, *channel_statistics(photos))[1]
        >>> image.shape, label
        (torch.Size([3, 32, 32]), 1)
    """
    _check(dataset, seed)
    mean = _per_channel("mean", mean, -torch.inf, "finite numbers, one per channel")
    deviation = _per_channel("deviation", deviation, 0, "finite non-negative numbers, one per channel")
    return Randomized(dataset, image=partial(_gaussian, mean=mean, deviation=deviation, seed=seed))


def channel_statistics(dataset: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels of all images.

    Args:
        dataset: pairs (image, label), as for `shuffled_pixels`; read once.

    Returns:
        Two float64 tensors of shape (channels,).

    Raises:
        DataError: the data set is empty, or its images are not float tensors.

    Example:
        >>> photos = torch.utils.data.TensorDataset(torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 1]))
        >>> [values.tolist() for values in channel_statistics(photos)]
        [[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]
    """
    total = square = torch.zeros(1, dtype=torch.float64)
    count = 0
    with random_streams_kept():
        for index in range(len(dataset)):
            rows = _positions(float_image(pair_of(dataset[index])[0])).double()
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
    own = other if probability == 1 else class_of(label)  # checked for every index alike
    return other if replaced else own


def _permuted(image: Any, index: int, seed: int, each: bool) -> Tensor:
    image = float_image(image)
    rows = _positions(image)
    order = np.random.default_rng([seed, index] if each else [seed]).permutation(rows.shape[1])
    return rows[:, torch.from_numpy(order)].reshape(image.shape)


def _gaussian(image: Any, index: int, mean: Tensor, deviation: Tensor, seed: int) -> Tensor:
    image = float_image(image)
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


def _is_share(probability: Any) -> bool:
    return isinstance(probability, Real) and not isinstance(probability, bool) and 0 <= float(probability) <= 1


def _per_channel(name: str, values: Any, least: float, expected: str) -> Tensor:
    try:
        numbers = torch.as_tensor(values)
        if bool((numbers.isfinite() & (numbers >= least)).all()):
            return numbers
    except (TypeError, ValueError, RuntimeError):  # no numbers, or complex ones
        pass
    got = repr(values.tolist() if isinstance(values, Tensor) else values)
    remedy = "Take them from channel_statistics(training_set)."
    raise ConfigurationError(name, got=got, expected=expected, remedy=remedy)


def _check(dataset: Any, seed: int) -> None:
    sized = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    _require("dataset", type(dataset).__name__, sized, "a map-style data set, with a length and indices")
    _require("seed", seed, isinstance(seed, int) and seed >= 0, "a non-negative integer")


def _require(name: str, value: Any, valid: bool, expected: str) -> None:
    if not valid:
        raise ConfigurationError(name, got=str(value), expected=expected, remedy=f"Change {name}.")
