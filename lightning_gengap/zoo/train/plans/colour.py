"""Colour images of 32 x 32, as users train on them: five families, with and without augmentation, to convergence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_gengap.zoo.train.architectures import ARCHITECTURES
from lightning_gengap.zoo.train.datasets import CLASS_COUNTS
from lightning_gengap.zoo.train.plans.schedule import SNAPSHOTS, scheduled
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.task import Task

PLAN, TASKS = "colour", 40
LARGE_PLAN, LARGE_TASKS, LARGE_EPOCHS = "large_colour", 6, 32
FAMILIES = ("resnet", "vgg", "vit", "convnext", "mixer")
_SEED, _LARGE_SEED = 14, 15
_SIDES = {"cifar10": 32, "cifar100": 32, "fashion_mnist": 28}
_FIRST = 20_000  # of the training images are drawn from, where a task has no more; 200 of each class of CIFAR-100
# Classes and samples.
_KINDS = (
    ("cifar10", 10, 2000),
    ("cifar100", 20, 3000),
    ("cifar10", 10, 5000),
    ("cifar100", 100, 10_000),
    ("cifar10", 5, 2000),
    ("fashion_mnist", 10, 2000),
    ("cifar100", 10, 2000),
    ("cifar10", 10, 3000),
    ("cifar100", 50, 5000),
    ("cifar10", 10, 10_000),
    ("cifar100", 40, 4000),
    ("fashion_mnist", 10, 5000),
)
_LARGE_KINDS = (
    ("cifar10", 10, 20_000),
    ("cifar100", 100, 20_000),
    ("cifar10", 10, 20_000),
    ("cifar10", 10, 50_000),
    ("fashion_mnist", 10, 20_000),
    ("cifar100", 50, 10_000),
)
_TEST = 4000
_PASSES = {
    "resnet": 80_000,
    "vgg": 80_000,
    "vit": 160_000,
    "convnext": 120_000,
    "mixer": 120_000,
}  # of single samples
_LONGER = 1.8  # on copies, on mixes and on noisy labels
_NOISE = (0.3, 0.2, 0.4, 0.1)
_CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"mixup": 0.2},
    {},
    {"label_smoothing": 0.1},
    {},
    {"dropout": 0.3},
    {"weight_decay": True},
)
_RATES = {"sgd": (0.03, 0.1), "adamw": (1e-3, 3e-3)}
_DECAYS = {"sgd": (5e-4, 5e-3), "adamw": (1e-2, 0.5)}  # usual and strong


def colour_zoo(tasks: int = TASKS) -> Iterator[Recipe]:
    """Recipes of tasks on CIFAR-10, CIFAR-100 and, at 28 x 28, Fashion-MNIST, a run of each of five families in each.

    Every fifth task has noisy labels. Where a task leaves out enough classes of its source, one run has a pretrained
    start.
    """
    for number in range(tasks):
        rng = np.random.default_rng([_SEED, number])
        task = _task(rng, number, _KINDS, 7000)
        for run in range(len(FAMILIES)):
            yield _run(task, rng, run, number)


def large_colour_zoo(tasks: int = LARGE_TASKS) -> Iterator[Recipe]:
    """The same with 10,000 to 50,000 samples and networks of twice the width, for a GPU."""
    for number in range(tasks):
        rng = np.random.default_rng([_LARGE_SEED, number])
        task = _task(rng, number, _LARGE_KINDS, 8000)
        for run in range(len(FAMILIES)):
            recipe = _run(task, rng, run, number)
            every = LARGE_EPOCHS // SNAPSHOTS
            yield replace(
                recipe,
                plan=LARGE_PLAN,
                width=2 * recipe.width,
                batch_size=128,
                epochs=LARGE_EPOCHS,
                snapshot_every=every,
            )


def _task(rng: np.random.Generator, number: int, kinds: tuple[tuple[str, int, int], ...], seed: int) -> Task:
    source, count, samples = kinds[number % len(kinds)]
    classes = rng.choice(CLASS_COUNTS[source], size=count, replace=False)
    noise = _NOISE[number // 5 % len(_NOISE)] if number % 5 == 2 else 0.0
    grey = source == "fashion_mnist"
    chosen = tuple(sorted(map(int, classes)))
    first = _FIRST if samples <= _FIRST else 0
    return Task(source, chosen, _SIDES[source], grey, samples, noise, seed + number, test_samples=_TEST, first=first)


def _run(task: Task, rng: np.random.Generator, run: int, number: int) -> Recipe:
    family = FAMILIES[(run + number) % len(FAMILIES)]
    architecture = ARCHITECTURES[family]
    optimizer = "adamw" if architecture.slow or rng.random() < 0.4 else "sgd"
    usual, strong = _DECAYS[optimizer]
    augment, norm = bool(rng.random() < 0.5), family != "vgg" or bool(rng.random() < 0.7)
    changes = dict(_CHANGES[(len(FAMILIES) * number + run) % len(_CHANGES)])
    if "weight_decay" in changes:
        changes["weight_decay"] = strong
    longer = augment or task.noise or "mixup" in changes
    epochs, every = scheduled(_PASSES[family] * (_LONGER if longer else 1), task.train_samples)
    left_out = CLASS_COUNTS[task.source] - len(task.classes)
    fields: dict[str, Any] = {"dropout": 0.0, "weight_decay": usual, **changes}
    return Recipe(
        task=task,
        family=family,
        width=int(rng.choice([12, 16] if family in ("vit", "mixer", "convnext") else [8, 12])),
        depth=int(rng.choice([1, 2])),
        norm=norm,
        augment=augment,
        optimizer=optimizer,
        learning_rate=_RATES[optimizer][0] if architecture.slow or not norm else float(rng.choice(_RATES[optimizer])),
        # With few samples, batch normalisation and a constant rate of SGD the last epoch would be a matter of luck.
        cosine=bool(rng.random() < 0.6) or optimizer == "sgd",
        batch_size=64 if task.train_samples >= 8000 else 32,
        epochs=epochs,
        snapshot_every=every,
        seed=run,
        pretrained=left_out >= len(task.classes) and run == number // len(_KINDS) % len(FAMILIES),
        plan=PLAN,
        **fields,
    )
