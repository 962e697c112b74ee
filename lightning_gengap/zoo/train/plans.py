"""Plans: which recipes a zoo consists of. A longer plan begins with the recipes of a shorter one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from lightning_gengap.zoo.train.architectures import FAMILIES
from lightning_gengap.zoo.train.datasets import CLASS_COUNTS
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.task import Task

RUNS_PER_TASK = 8
_NOISE = (0.0, 0.0, 0.0, 0.1, 0.2, 0.4, 0.6, 1.0)
_PASSES = 36_000  # sample passes of a small run: 5 to 20 seconds on one core


def small_zoo(tasks: int, seed: int = 0) -> Iterator[Recipe]:
    """Recipes of `tasks` random tasks, eight runs each; every twelfth task is a large one.

    A longer zoo begins with the same recipes as a shorter one.
    """
    for number in range(tasks):
        rng = np.random.default_rng([seed, number])
        task = _large_task(rng, number) if number % 12 == 11 else small_task(rng, number)
        for run in range(RUNS_PER_TASK):
            yield _run(task, rng, run)


def digits_zoo(tasks: int, seed: int = 1) -> Iterator[Recipe]:
    """A small zoo on the embedded digits alone."""
    for number in range(tasks):
        rng = np.random.default_rng([seed, number])
        task = small_task(rng, number, source="digits")
        for run in range(RUNS_PER_TASK):
            yield _run(task, rng, run)


def small_task(rng: np.random.Generator, number: int, source: str | None = None) -> Task:
    """Random classes of one source, 300 to 3,000 training images, a rendering and a noise level."""
    source = source or str(rng.choice(list(CLASS_COUNTS), p=[0.35, 0.3, 0.2, 0.15]))
    available = CLASS_COUNTS[source]
    counts = {"cifar100": (5, 10, 20), "digits": (3, 5, 10)}.get(source, (2, 4, 10))
    classes = rng.choice(available, size=int(rng.choice(counts)), replace=False)
    train_samples = int(round(300 * 10 ** rng.uniform(0, 1), -1))
    if source == "digits":
        train_samples = min(train_samples, 110 * len(classes))
    elif source == "cifar100":
        train_samples = min(train_samples, 160 * len(classes))
    side = 8 if source == "digits" else int(rng.choice([16, 16, 16, 28]))
    grey = source in ("digits", "fashion_mnist") or bool(rng.random() < 0.25)
    noise = float(rng.choice(_NOISE))
    return Task(source, tuple(sorted(map(int, classes))), side, grey, train_samples, noise, seed=number)


def _large_task(rng: np.random.Generator, number: int) -> Task:
    source = ("cifar10", "fashion_mnist")[number // 12 % 4 == 1]
    train_samples = int(rng.choice([10_000, 16_000]))
    noise = float(rng.choice([0.0, 0.0, 0.2]))
    return Task(source, tuple(range(10)), 16, source == "fashion_mnist", train_samples, noise, seed=number)


def _run(task: Task, rng: np.random.Generator, run: int) -> Recipe:
    """Families in turn, everything else at random."""
    large = task.train_samples >= 10_000
    family = FAMILIES[(task.seed + run) % len(FAMILIES)]
    optimizer = str(rng.choice(["sgd", "adamw"]))
    fast = bool(rng.random() < 0.5)
    rates = {"sgd": (0.02, 0.1), "adamw": (1e-3, 4e-3)}[optimizer]
    passes = (150_000 if large else _PASSES) * (16 / max(task.side, 12)) ** 1.5 * rng.uniform(0.6, 1.4)
    epochs = int(np.clip(passes / task.train_samples, 6, 72)) // 6 * 6
    return Recipe(
        task=task,
        family=family,
        width=int(rng.choice([12, 16, 24])),
        depth=int(rng.choice([1, 2])),
        norm=bool(rng.random() < 0.6),
        dropout=float(rng.choice([0.0, 0.0, 0.3])),
        weight_decay=float(rng.choice([0.0, 5e-4, 5e-3] if optimizer == "sgd" else [0.0, 1e-2, 1e-1])),
        augment=bool(rng.random() < 0.3),
        optimizer=optimizer,
        learning_rate=rates[fast] if family not in ("vit", "mlp") else rates[0],
        cosine=bool(rng.random() < 0.5),
        batch_size=int(rng.choice([32, 64])) if not large else 128,
        epochs=epochs,
        snapshot_every=epochs // 6,
        seed=run,
    )


def wide_zoo(tasks: int, seed: int = 5) -> Iterator[Recipe]:
    """Tasks unlike the small zoo's, eight runs each, one kind after the other in turn.

    Imbalanced classes, superclasses, coarse and rotated images, tabular and synthetic data, pretrained starts, many
    classes, and mostly random labels.
    """
    for number in range(tasks):
        rng = np.random.default_rng([seed, number])
        make_task, families, changes = _KINDS[number % len(_KINDS)]
        task = make_task(rng, 2000 + number)
        task = replace(task, side=min(task.side, 16))
        for run in range(RUNS_PER_TASK):
            family = families[(number + run) % len(families)]
            yield _wide_run(task, rng, run, family, changes)


def _wide_run(task: Task, rng: np.random.Generator, run: int, family: str, changes: dict[str, object]) -> Recipe:
    """Like a run of the small zoo, with MobileNets and group normalisation; every third has twelve snapshots."""
    recipe = replace(_run(task, rng, run), family=family)
    rates = (0.02, 0.1) if recipe.optimizer == "sgd" else (1e-3, 4e-3)
    rate = rates[0] if family in ("vit", "mlp") else float(rng.choice(rates))
    epochs = max(recipe.epochs // 12, 1) * 12
    usual = replace(
        recipe,
        learning_rate=rate,
        width=min(recipe.width, 16),
        group_norm=family in ("resnet", "mobilenet") and bool(rng.random() < 0.3),
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
    """Half the classes; the others are for pretraining."""
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
