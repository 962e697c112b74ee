"""Tasks unlike those of the small plan, and architectures and normalisations that it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from lightning_gengap.zoo.train.architectures import ARCHITECTURES
from lightning_gengap.zoo.train.datasets import CLASS_COUNTS
from lightning_gengap.zoo.train.plans.small import LEARNING_RATES, RUNS_PER_TASK, TASKS, random_run, small_task
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.task import Task

_SEED = 5


def wide_zoo(tasks: int = TASKS) -> Iterator[Recipe]:
    """Recipes of one kind of task after the other, eight runs each.

    The kinds: imbalanced classes, superclasses, coarse and rotated images, tabular and synthetic data, pretrained
    starts, many classes, and mostly random labels. Kinds that were added later come after the first 50 tasks.
    """
    for number in range(tasks):
        rng = np.random.default_rng([_SEED, number])
        kinds = _ADDED if _ADDED and number >= TASKS else _KINDS
        make_task, families, changes = kinds[number % len(kinds)]
        task = make_task(rng, 2000 + number)
        task = replace(task, side=min(task.side, 16))
        for run in range(RUNS_PER_TASK):
            family = families[(number + run) % len(families)]
            yield _wide_run(task, rng, run, family, changes)


def _wide_run(task: Task, rng: np.random.Generator, run: int, family: str, changes: dict[str, object]) -> Recipe:
    """Like a run of the small plan, sometimes with group normalisation; every third run has twelve snapshots."""
    recipe = replace(random_run(task, rng, run), family=family)
    architecture, rates = ARCHITECTURES[family], LEARNING_RATES[recipe.optimizer]
    epochs = max(recipe.epochs // 12, 1) * 12
    usual = replace(
        recipe,
        learning_rate=rates[0] if architecture.slow else float(rng.choice(rates)),
        width=min(recipe.width, 16),
        group_norm=architecture.group_norm and bool(rng.random() < 0.3),
        epochs=epochs,
        snapshot_every=epochs // (12 if run % 3 == 0 else 6),
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def _imbalanced(rng: np.random.Generator, number: int) -> Task:
    source = str(rng.choice(["cifar10", "cifar100", "fashion_mnist", "digits"]))
    task = small_task(rng, number, source)
    return replace(task, imbalance=float(rng.choice([5.0, 10.0])), noise=float(rng.choice([0.0, 0.0, 0.2])))


def _superclasses(rng: np.random.Generator, number: int) -> Task:
    source = str(rng.choice(["cifar10", "cifar100"]))
    classes = rng.choice(CLASS_COUNTS[source], size={"cifar10": 10, "cifar100": 40}[source], replace=False)
    samples = int(rng.choice([1000, 3000]))
    groups = int(rng.choice([2, 5]))
    return Task(source, tuple(map(int, classes)), 16, False, samples, 0.0, number, groups=groups)


def _coarse(rng: np.random.Generator, number: int) -> Task:
    return replace(small_task(rng, number, str(rng.choice(["cifar10", "fashion_mnist"]))), side=16, coarse=5)


def _rotated(rng: np.random.Generator, number: int) -> Task:
    return replace(small_task(rng, number, str(rng.choice(["cifar10", "fashion_mnist"]))), rotated=True)


def _tabular(rng: np.random.Generator, number: int) -> Task:
    return Task("breast_cancer", (0, 1), 1, True, 380, float(rng.choice([0.0, 0.2, 0.4])), number)


def _synthetic(rng: np.random.Generator, number: int) -> Task:
    source = str(rng.choice(["gaussians", "teacher"]))
    samples = int(rng.choice([400, 1000, 2500]))
    return Task(source, (0, 1, 2, 3), 1, True, samples, float(rng.choice([0.0, 0.0, 0.3])), number)


def _half(rng: np.random.Generator, number: int) -> Task:
    """Half of the classes; the rest is for pretraining."""
    source = str(rng.choice(["cifar10", "cifar100"]))
    count = {"cifar10": 5, "cifar100": 10}[source]
    classes = rng.choice(CLASS_COUNTS[source], size=count, replace=False)
    return Task(source, tuple(sorted(map(int, classes))), 16, False, int(rng.choice([500, 1200])), 0.0, number)


def _many_classes(rng: np.random.Generator, number: int) -> Task:
    count = int(rng.choice([50, 100]))
    classes = rng.choice(100, size=count, replace=False)
    return Task("cifar100", tuple(sorted(map(int, classes))), 16, False, 5000, 0.0, number)


def _random_labels(rng: np.random.Generator, number: int) -> Task:
    source = str(rng.choice(["cifar10", "fashion_mnist", "digits"]))
    task = small_task(rng, number, source)
    return replace(task, train_samples=min(task.train_samples, 800), noise=float(rng.choice([0.8, 1.0])))


_IMAGE_FAMILIES = ("mobilenet", "cnn", "resnet", "mlp", "vgg", "mobilenet", "vit", "resnet")
_Kind = tuple[Callable[[np.random.Generator, int], Task], tuple[str, ...], dict[str, object]]
_IMBALANCED: _Kind = (_imbalanced, _IMAGE_FAMILIES, {})
_KINDS: tuple[_Kind, ...] = (
    _IMBALANCED,
    (_superclasses, _IMAGE_FAMILIES, {}),
    (_synthetic, ("mlp",), {"augment": False}),
    _IMBALANCED,
    (_half, ("mobilenet", "cnn", "resnet", "vgg"), {"pretrained": True}),
    _IMBALANCED,
    (_coarse, _IMAGE_FAMILIES, {}),
    (_tabular, ("mlp",), {"augment": False}),
    _IMBALANCED,
    (_rotated, _IMAGE_FAMILIES, {}),
    _IMBALANCED,
    (_random_labels, _IMAGE_FAMILIES, {}),
    _IMBALANCED,
    (_many_classes, ("mobilenet", "cnn", "resnet", "vgg"), {"epochs": 24, "snapshot_every": 4}),
)
_ADDED: tuple[_Kind, ...] = ()  # for the tasks from the 51st on, so that no recipe before them moves
