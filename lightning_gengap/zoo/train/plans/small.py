"""Small random tasks, eight runs each, on all image data sets or on the embedded digits alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, groupby, islice

import numpy as np

from lightning_gengap.zoo.train.architectures import ARCHITECTURES
from lightning_gengap.zoo.train.datasets import CLASS_COUNTS
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.task import Task

TASKS, RUNS_PER_TASK = 50, 8
IMAGE_TASKS, RUNS_PER_IMAGE_TASK = 22, 3
_MOST_SAMPLES = 5000
LEARNING_RATES = {"sgd": (0.02, 0.1), "adamw": (1e-3, 4e-3)}
WEIGHT_DECAYS = {"sgd": (0.0, 5e-4, 5e-3), "adamw": (0.0, 1e-2, 1e-1)}
_SEED, _DIGITS_SEED = 0, 1
_FAMILIES = ("cnn", "vgg", "resnet", "mlp", "vit")
_NOISE = (0.0, 0.0, 0.0, 0.1, 0.2, 0.4, 0.6, 1.0)
_PASSES, _LARGE_PASSES = 36_000, 150_000  # of single samples; 5 to 20 seconds on one core for a small run


def small_zoo(tasks: int = TASKS) -> Iterator[Recipe]:
    """Recipes of random tasks, eight runs each; every twelfth task is a large one."""
    for number in range(tasks):
        rng = np.random.default_rng([_SEED, number])
        task = _large_task(rng, number) if number % 12 == 11 else small_task(rng, number)
        for run in range(RUNS_PER_TASK):
            yield random_run(task, rng, run)


def digits_zoo(tasks: int = TASKS) -> Iterator[Recipe]:
    """Recipes of random tasks on the embedded digits, which need no files."""
    for number in range(tasks):
        rng = np.random.default_rng([_DIGITS_SEED, number])
        task = small_task(rng, number, source="digits")
        for run in range(RUNS_PER_TASK):
            yield random_run(task, rng, run)


def small_images_zoo(tasks: int = IMAGE_TASKS) -> Iterator[Recipe]:
    """Three runs of each task of `small` with a task of `digits` after every third, to remeasure.

    Without dense networks, Fashion-MNIST, purely random labels and large tasks.
    """
    yield from islice(chain.from_iterable(_image_runs()), RUNS_PER_IMAGE_TASK * tasks)


def _image_runs() -> Iterator[list[Recipe]]:
    of_digits = _of_images(digits_zoo())
    for number, runs in enumerate(_of_images(small_zoo())):
        yield runs
        if number % 3 == 0:
            yield next(of_digits)


def _of_images(recipes: Iterator[Recipe]) -> Iterator[list[Recipe]]:
    """The chosen runs of each chosen task."""
    for task, runs in groupby(recipes, key=lambda recipe: recipe.task):
        if task.source != "fashion_mnist" and task.train_samples <= _MOST_SAMPLES and task.noise < 1:
            yield [recipe for recipe in runs if recipe.family != "mlp"][:RUNS_PER_IMAGE_TASK]


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


def random_run(task: Task, rng: np.random.Generator, run: int) -> Recipe:
    """Run number `run` of a task: the families take turns, and everything else is drawn."""
    large = task.train_samples >= 10_000
    family = _FAMILIES[(task.seed + run) % len(_FAMILIES)]
    optimizer = str(rng.choice(["sgd", "adamw"]))
    fast = bool(rng.random() < 0.5)
    passes = (_LARGE_PASSES if large else _PASSES) * (16 / max(task.side, 12)) ** 1.5 * rng.uniform(0.6, 1.4)
    epochs = int(np.clip(passes / task.train_samples, 6, 72)) // 6 * 6
    return Recipe(
        task=task,
        family=family,
        width=int(rng.choice([12, 16, 24])),
        depth=int(rng.choice([1, 2])),
        norm=bool(rng.random() < 0.6),
        dropout=float(rng.choice([0.0, 0.0, 0.3])),
        weight_decay=float(rng.choice(WEIGHT_DECAYS[optimizer])),
        augment=bool(rng.random() < 0.3),
        optimizer=optimizer,
        learning_rate=LEARNING_RATES[optimizer][fast and not ARCHITECTURES[family].slow],
        cosine=bool(rng.random() < 0.5),
        batch_size=int(rng.choice([32, 64])) if not large else 128,
        epochs=epochs,
        snapshot_every=epochs // 6,
        seed=run,
    )
