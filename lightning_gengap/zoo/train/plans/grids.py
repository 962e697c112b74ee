"""Full grids: every combination of three hyperparameters on one task.

They are small fractions of the three groups of DEMOGEN (Jiang et al. 2019, arXiv 1810.00113), two tasks per group. A
grid has two levels per hyperparameter and two copies, so 16 runs. Most of them train until they have converged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from lightning_gengap.zoo.train.datasets import CLASS_COUNTS
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.task import Task

COPIES = (0, 1)
_EPOCHS, _SNAPSHOTS = 30, 10
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
_AUGMENT, _DECAY, _RATE = {"augment": (False, True)}, {"weight_decay": (0.0, 5e-3)}, {"learning_rate": (0.02, 0.1)}


@dataclass(frozen=True)
class Grid:
    """A full grid of hyperparameters on one task.

    Attributes:
        name: begins with the DEMOGEN group it belongs to.
        shared: what all runs have in common, unless an axis changes it.
        axes: hyperparameters that vary, each with its levels.
    """

    name: str
    source: str
    classes: int
    train_samples: int
    shared: Mapping[str, Any]
    axes: Mapping[str, Sequence[Any]]


GRIDS = (
    Grid("cifar10_cnn_a", "cifar10", 10, 1500, _CNN, {"width": (10, 20), **_AUGMENT, **_DECAY}),
    Grid("cifar10_resnet_a", "cifar10", 10, 1500, _RESNET, {"group_norm": (False, True), **_AUGMENT, **_RATE}),
    Grid("cifar100_resnet_a", "cifar100", 20, 1500, _RESNET, {"width": (8, 16), **_AUGMENT, **_RATE}),
    Grid("cifar10_cnn_b", "cifar10", 5, 1200, _CNN, {"norm": (True, False), "dropout": (0.0, 0.3), **_RATE}),
    Grid("cifar10_resnet_b", "cifar10", 5, 1200, _RESNET, {"width": (8, 16), **_DECAY, **_RATE}),
    Grid("cifar100_resnet_b", "cifar100", 10, 1200, _RESNET, {"depth": (1, 2), **_AUGMENT, **_DECAY}),
)


def grid_zoo(tasks: int = len(GRIDS)) -> Iterator[Recipe]:
    """All runs of the first `tasks` grids: every combination of the axes' levels, each in two copies."""
    for number, grid in enumerate(GRIDS[:tasks]):
        rng = np.random.default_rng([11, number])
        chosen = rng.choice(CLASS_COUNTS[grid.source], size=grid.classes, replace=False)
        classes = tuple(sorted(map(int, chosen)))
        task = Task(grid.source, classes, 16, False, grid.train_samples, 0.0, seed=1000 + number)
        for levels in product(*grid.axes.values()):
            hyperparameters = {**grid.shared, **dict(zip(grid.axes, levels, strict=True))}
            for copy in COPIES:
                yield Recipe(
                    task=task,
                    epochs=_EPOCHS,
                    snapshot_every=_EPOCHS // _SNAPSHOTS,
                    seed=copy,
                    grid=grid.name,
                    **hyperparameters,
                )
