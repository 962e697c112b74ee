"""Expensive runs: small tasks trained far beyond convergence, and whole data sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lightning_gengap.zoo.train.architectures import ARCHITECTURES
from lightning_gengap.zoo.train.plans.small import LEARNING_RATES, RUNS_PER_TASK, TASKS, WEIGHT_DECAYS, small_task
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.task import Task

SNAPSHOTS = 12
_SEED = 8
_SOURCES = ("cifar10", "digits", "cifar100", "fashion_mnist", "cifar10", "cifar100", "digits", "cifar10")
_FAMILIES = ("resnet", "cnn", "vgg", "mobilenet", "mlp", "vit")
_PASSES = 90_000  # of single samples: most runs reach a train accuracy of 0.97 and go on
_WHOLE_FAMILIES = ("resnet", "cnn", "mobilenet", "vgg")
_TRAIN_SAMPLES = {"cifar10": 50_000, "fashion_mnist": 60_000}


def long_zoo(tasks: int = TASKS) -> Iterator[Recipe]:
    """Recipes of small tasks with two families and eight runs each, trained until they overfit, in twelve snapshots."""
    for number in range(tasks):
        rng = np.random.default_rng([_SEED, number])
        task = small_task(rng, 4000 + number, _SOURCES[number % len(_SOURCES)])
        noise = float(rng.choice([0.0, 0.0, 0.2, 0.4]))
        samples = min(task.train_samples, 2000)
        task = replace(task, side=min(task.side, 16), noise=noise, train_samples=samples)
        epochs = max(_PASSES // samples // SNAPSHOTS, 1) * SNAPSHOTS
        for run in range(RUNS_PER_TASK):
            yield _long_run(task, rng, run, epochs)


def _long_run(task: Task, rng: np.random.Generator, run: int, epochs: int) -> Recipe:
    family = _FAMILIES[(task.seed + run % 2) % len(_FAMILIES)]
    optimizer = str(rng.choice(["sgd", "adamw"]))
    architecture, rates = ARCHITECTURES[family], LEARNING_RATES[optimizer]
    return Recipe(
        task=task,
        family=family,
        width=int(rng.choice([8, 16])),
        depth=int(rng.choice([1, 2])),
        norm=bool(rng.random() < 0.7),
        dropout=float(rng.choice([0.0, 0.0, 0.3])),
        weight_decay=float(rng.choice(WEIGHT_DECAYS[optimizer])),
        augment=run % 4 == 3,
        optimizer=optimizer,
        learning_rate=rates[0] if architecture.slow else float(rng.choice(rates)),
        cosine=bool(rng.random() < 0.5),
        batch_size=int(rng.choice([32, 64])),
        epochs=epochs,
        snapshot_every=epochs // SNAPSHOTS,
        seed=run,
        group_norm=architecture.group_norm and bool(rng.random() < 0.3),
    )


def whole_zoo(tasks: int = len(_TRAIN_SAMPLES)) -> Iterator[Recipe]:
    """Recipes on all training images of CIFAR-10, then of Fashion-MNIST; 2 to 40 minutes per run on one core.

    Images are 16 x 16. Each of four families has a wide and a narrow run, one of them with augmentation.
    """
    for number, (source, samples) in enumerate(list(_TRAIN_SAMPLES.items())[:tasks]):
        task = Task(source, tuple(range(10)), 16, source == "fashion_mnist", samples, 0.0, seed=3000 + number)
        for run in range(RUNS_PER_TASK):
            family, narrow = _WHOLE_FAMILIES[run % 4], run >= 4
            yield _whole_run(task, family, run, width=8 if narrow else 16, augment=(run % 2 == 0) != narrow)


def _whole_run(task: Task, family: str, run: int, width: int, augment: bool) -> Recipe:
    return Recipe(
        task=task,
        family=family,
        width=width,
        depth=1,
        norm=True,
        dropout=0.0,
        weight_decay=5e-4 if family == "resnet" else 1e-2,
        augment=augment,
        optimizer="sgd" if family == "resnet" else "adamw",
        learning_rate=0.1 if family == "resnet" else 2e-3,
        cosine=True,
        batch_size=128,
        epochs=10,
        snapshot_every=1,
        seed=run,
    )
