"""A task: a data set, some of its classes, a rendering, sizes and a share of noisy labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from lightning_gengap.zoo.train.datasets import load
from lightning_gengap.zoo.train.synthetic import bayes_accuracy
from lightning_gengap.zoo.train.texts import TEXTS, vocabulary


@dataclass(frozen=True)
class Task:
    """What is to be learned. Equal tasks have equal data.

    Attributes:
        classes: labels of the source that take part; they become 0, 1, ...
        side: larger images are averaged down to side x side pixels.
        grey: the mean over the channels in place of the channels.
        train_samples: how many are drawn from the training split; all there are if it has fewer.
        noise: share of the train labels that are drawn uniformly from all classes of the task.
        seed: of all that is drawn.
        groups: number of superclasses that the classes are merged into, in turn; 0 keeps the classes.
        imbalance: size of the largest class over that of the smallest, in train and test data. The sizes between them
            fall geometrically.
        coarse: images are averaged to coarse x coarse pixels and enlarged again; 0 leaves them as they are.
        rotated: each image is turned by a random multiple of 90 degrees.
        test_samples: how many are drawn from the test split; all there are if it has fewer.
        first: samples are drawn from the first so many of a split, so that a part of a data set is enough; 0 for all.
    """

    source: str
    classes: tuple[int, ...]
    side: int
    grey: bool
    train_samples: int
    noise: float
    seed: int
    groups: int = 0
    imbalance: float = 1.0
    coarse: int = 0
    rotated: bool = False
    test_samples: int = 2000
    first: int = 0

    @property
    def outputs(self) -> int:
        """The number of classes that a model tells apart."""
        return self.groups or len(self.classes)


@dataclass(frozen=True)
class TaskData:
    """Standardised images (N, channels, side, side) or features (N, features), or token ids (N, words); labels (N,).

    Attributes:
        test_labels: clean, whatever the task's noise.
        bayes_accuracy: the best test accuracy that any classifier can have; NaN where it is unknown.
        vocabulary: of texts, the number of token ids; 0 for other inputs.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    bayes_accuracy: float = math.nan
    vocabulary: int = 0


def prepare(task: Task, directory: Path | None) -> TaskData:
    """Draw, render, standardise and corrupt the task's data. Token ids stay as they are."""
    rng = np.random.default_rng(task.seed)
    train_images, train_labels = _split(task, "train", task.train_samples, directory, rng)
    test_images, test_labels = _split(task, "test", task.test_samples, directory, rng)
    if train_images.is_floating_point():
        train_images, test_images = _standardised(train_images, test_images)
    redrawn = torch.from_numpy(rng.random(len(train_labels)) < task.noise)
    random_labels = torch.from_numpy(rng.integers(0, task.outputs, len(train_labels)))
    return TaskData(
        train_images,
        torch.where(redrawn, random_labels, train_labels),
        test_images,
        test_labels,
        bayes_accuracy(task.source),
        vocabulary(directory, task.source) if task.source in TEXTS else 0,
    )


def _standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both by mean and deviation of the first: of each feature, or of each channel. What is constant there is zero."""
    pooled = (0, 2, 3) if train.ndim == 4 else (0,)
    mean, deviation = train.mean(dim=pooled, keepdim=True), train.std(dim=pooled, keepdim=True)
    varies = deviation > 0
    deviation = torch.where(varies, deviation, torch.ones_like(deviation))
    return tuple(torch.where(varies, (part - mean) / deviation, 0.0) for part in (train, test))  # type: ignore[return-value]


def _split(
    task: Task, split: str, most: int, directory: Path | None, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    images, labels = load(task.source, split, directory)
    chosen = rng.permutation(np.flatnonzero(np.isin(labels[: task.first or None], task.classes)))
    if task.imbalance > 1:
        chosen = _imbalanced(chosen, labels, task, most)
    chosen = np.sort(chosen[:most])
    relabel = np.full(int(labels.max()) + 1, -1)
    relabel[list(task.classes)] = np.arange(len(task.classes)) % task.outputs
    values = torch.from_numpy(np.ascontiguousarray(images[chosen]))
    targets = torch.from_numpy(relabel[labels[chosen]])
    if values.ndim == 2:
        return (values if task.source in TEXTS else values.float()), targets
    pixels = values.permute(0, 3, 1, 2).float() / 255
    if task.grey:
        pixels = pixels.mean(dim=1, keepdim=True)
    if task.side < pixels.shape[-1]:
        pixels = adaptive_avg_pool2d(pixels, task.side)
    if task.coarse:
        pixels = interpolate(adaptive_avg_pool2d(pixels, task.coarse), size=pixels.shape[-1])
    if task.rotated:
        turns = rng.integers(0, 4, len(pixels))
        pixels = torch.stack([image.rot90(int(k), (1, 2)) for image, k in zip(pixels, turns, strict=True)])
    return pixels, targets


def _imbalanced(chosen: NDArray[np.int64], labels: NDArray[np.int64], task: Task, most: int) -> NDArray[np.int64]:
    """Of each class the first in `chosen`, so many that the sizes fall geometrically."""
    share = task.imbalance ** -(np.arange(len(task.classes)) / max(len(task.classes) - 1, 1))
    members = [chosen[labels[chosen] == label] for label in task.classes]
    unit = min(most / share.sum(), *(len(own) / part for own, part in zip(members, share, strict=True)))
    kept = np.concatenate([own[: max(int(unit * part), 2)] for own, part in zip(members, share, strict=True)])
    return chosen[np.isin(chosen, kept)]
