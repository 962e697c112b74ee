"""A task: a data set, a subset of its classes, a rendering, a train size and a label-noise level."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lightning_gengap.zoo.datasets import load

MOST_TEST = 2000


@dataclass(frozen=True)
class Task:
    """What is learned; equal tasks are equal data.

    Attributes:
        classes: labels of the source that take part, relabelled 0, 1, ...
        side: images are averaged down to side x side pixels.
        train_samples: drawn from the training split, seeded; all there are if fewer.
        noise: share of the labels drawn uniformly from all classes of the task.
    """

    source: str
    classes: tuple[int, ...]
    side: int
    grey: bool
    train_samples: int
    noise: float
    seed: int


@dataclass(frozen=True)
class TaskData:
    """Standardised images (examples, channels, side, side) and labels; test labels are uncorrupted."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def prepare(task: Task, directory: Path | None) -> TaskData:
    """Draw, render, standardise and corrupt the task's data."""
    rng = np.random.default_rng(task.seed)
    train_images, train_labels = _drawn(task, "train", task.train_samples, directory, rng)
    test_images, test_labels = _drawn(task, "test", MOST_TEST, directory, rng)
    mean = train_images.mean(dim=(0, 2, 3), keepdim=True)
    deviation = train_images.std(dim=(0, 2, 3), keepdim=True)
    redrawn = torch.from_numpy(rng.random(len(train_labels)) < task.noise)
    random_labels = torch.from_numpy(rng.integers(0, len(task.classes), len(train_labels)))
    return TaskData(
        (train_images - mean) / deviation,
        torch.where(redrawn, random_labels, train_labels),
        (test_images - mean) / deviation,
        test_labels,
    )


def _drawn(
    task: Task, split: str, most: int, directory: Path | None, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    images, labels = load(task.source, split, directory)
    chosen = rng.permutation(np.flatnonzero(np.isin(labels, task.classes)))[:most]
    relabel = np.full(int(labels.max()) + 1, -1)
    relabel[list(task.classes)] = np.arange(len(task.classes))
    pixels = torch.from_numpy(np.ascontiguousarray(images[np.sort(chosen)])).permute(0, 3, 1, 2).float() / 255
    if task.grey:
        pixels = pixels.mean(dim=1, keepdim=True)
    if task.side < pixels.shape[-1]:
        pixels = adaptive_avg_pool2d(pixels, task.side)
    return pixels, torch.from_numpy(relabel[labels[np.sort(chosen)]])
