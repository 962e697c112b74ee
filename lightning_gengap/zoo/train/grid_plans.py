"""Plans of full grids: every combination of a few hyperparameters on one task, after the three groups of DEMOGEN.

Fractions of the grids of Jiang et al. 2019 (arXiv 1810.00113) on small training sets: three axes of two levels in two
copies, so 16 runs each, trained until most have converged, in two tasks per group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from lightning_gengap.zoo.train.datasets import CLASS_COUNTS
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.task import Task

COPIES = (0, 1)
_CNN: dict[str, Any] = {
    "family": "cnn",
    "depth": 2,
    "norm": True,
    "dropout": 0.0,
    "weight_decay": 0.0,
    "augment": False,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "cosine": True,
    "batch_size": 32,
    "width": 16,
}
_RESNET: dict[str, Any] = {**_CNN, "family": "resnet", "depth": 1, "width": 12, "learning_rate": 0.1}
Axes = Mapping[str, Sequence[Any]]
# Name, data set, classes, training images, what all runs share, and the axes; names begin with their DEMOGEN group.
GRIDS: tuple[tuple[str, str, int, int, dict[str, Any], Axes], ...] = (
    (
        "cifar10_cnn_a",
        "cifar10",
        10,
        1500,
        _CNN,
        {"width": (10, 20), "augment": (False, True), "weight_decay": (0.0, 5e-3)},
    ),
    (
        "cifar10_resnet_a",
        "cifar10",
        10,
        1500,
        _RESNET,
        {"group_norm": (False, True), "augment": (False, True), "learning_rate": (0.02, 0.1)},
    ),
    (
        "cifar100_resnet_a",
        "cifar100",
        20,
        1500,
        _RESNET,
        {"width": (8, 16), "augment": (False, True), "learning_rate": (0.02, 0.1)},
    ),
    (
        "cifar10_cnn_b",
        "cifar10",
        5,
        1200,
        _CNN,
        {"norm": (True, False), "dropout": (0.0, 0.3), "learning_rate": (0.02, 0.1)},
    ),
    (
        "cifar10_resnet_b",
        "cifar10",
        5,
        1200,
        _RESNET,
        {"width": (8, 16), "weight_decay": (0.0, 5e-3), "learning_rate": (0.02, 0.1)},
    ),
    (
        "cifar100_resnet_b",
        "cifar100",
        10,
        1200,
        _RESNET,
        {"depth": (1, 2), "augment": (False, True), "weight_decay": (0.0, 5e-3)},
    ),
)
_EPOCHS, _SNAPSHOTS = 30, 10


def grid_zoo(tasks: int = len(GRIDS)) -> Iterator[Recipe]:
    """All runs of the first `tasks` grids: every combination of the axes' levels, in two copies each."""
    for number, (name, source, classes, samples, shared, axes) in enumerate(GRIDS[:tasks]):
        rng = np.random.default_rng([11, number])
        chosen = rng.choice(CLASS_COUNTS[source], size=classes, replace=False)
        task = Task(source, tuple(sorted(map(int, chosen))), 16, False, samples, 0.0, seed=1000 + number)
        for levels in product(*axes.values()):
            chosen_levels = dict(zip(axes, levels, strict=True))
            for copy in COPIES:
                yield Recipe(
                    task=task,
                    epochs=_EPOCHS,
                    snapshot_every=_EPOCHS // _SNAPSHOTS,
                    seed=copy,
                    grid=name,
                    **{**shared, **chosen_levels},
                )
