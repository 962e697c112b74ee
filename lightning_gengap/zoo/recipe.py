"""Recipes: everything that determines a run, and nothing that does not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from lightning_gengap.zoo.architectures import FAMILIES
from lightning_gengap.zoo.task import Task

RUNS_PER_TASK = 8
_CLASS_COUNTS = {"cifar10": 10, "cifar100": 100, "fashion_mnist": 10, "digits": 10}
_NOISE = (0.0, 0.0, 0.0, 0.1, 0.2, 0.4, 0.6, 1.0)
_PASSES = 36_000  # sample passes of a small run: 5 to 20 seconds on one core


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        epochs: planned; a snapshot is taken after the first and then every `snapshot_every`.
    """

    task: Task
    family: str
    width: int
    depth: int
    norm: bool
    dropout: float
    weight_decay: float
    augment: bool
    optimizer: str
    learning_rate: float
    cosine: bool
    batch_size: int
    epochs: int
    snapshot_every: int
    seed: int

    @property
    def key(self) -> str:
        """The run's identity: a hash of all that determines it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def small_zoo(tasks: int, seed: int = 0) -> Iterator[Recipe]:
    """Recipes of `tasks` random tasks, eight runs each; every twelfth task is a large one.

    A longer zoo begins with the same recipes as a shorter one.
    """
    for number in range(tasks):
        rng = np.random.default_rng([seed, number])
        task = _large_task(rng, number) if number % 12 == 11 else _small_task(rng, number)
        for run in range(RUNS_PER_TASK):
            yield _run(task, rng, run)


def digits_zoo(tasks: int, seed: int = 1) -> Iterator[Recipe]:
    """A small zoo on the embedded digits alone."""
    for number in range(tasks):
        rng = np.random.default_rng([seed, number])
        task = _small_task(rng, number, source="digits")
        for run in range(RUNS_PER_TASK):
            yield _run(task, rng, run)


def _small_task(rng: np.random.Generator, number: int, source: str | None = None) -> Task:
    source = source or str(rng.choice(list(_CLASS_COUNTS), p=[0.35, 0.3, 0.2, 0.15]))
    available = _CLASS_COUNTS[source]
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
