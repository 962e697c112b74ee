"""Short texts: embedding bags, convolutions, LSTMs, transformers; most to convergence, some on noisy labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lightning_gengap.zoo.train.architectures import ARCHITECTURES
from lightning_gengap.zoo.train.plans.schedule import scheduled, shrunk
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.task import Task
from lightning_gengap.zoo.train.texts import TEXTS

PLAN, TASKS = "texts", 32
FAMILIES = ("embedding_bag", "text_lstm", "text_convolution", "text_transformer")
_SEED = 13
_SAMPLES = {"subjectivity": 6667, "customer_reviews": 2517, "sst2": 6920, "trec": 3968}  # to train on
_MOST, _TEST = 4000, 4000
_PASSES, _NOISY_PASSES = 44_000, 80_000  # of single samples
_SLOWLY = {"embedding_bag": 2.5}  # it takes so many times more to fit
_NOISE = (0.3, 0.2, 0.4, 0.1)
_CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"dropout": 0.4},
    {},
    {"weight_decay": 0.3},
    {},
    {"label_smoothing": 0.1},
    {},
)


def text_zoo(tasks: int = TASKS) -> Iterator[Recipe]:
    """Recipes of tasks on four sets of texts in turn, a run of each of four families in each task.

    The first time round a set has up to 4,000 texts; later it is a part. A third of the tasks have noisy labels.
    """
    for number in range(tasks):
        rng = np.random.default_rng([_SEED, number])
        task = _task(rng, number)
        for run in range(len(FAMILIES)):
            yield _run(task, rng, run, number)


def _task(rng: np.random.Generator, number: int) -> Task:
    round_, place = divmod(number, len(TEXTS))
    source = list(TEXTS)[place]
    classes, rows = TEXTS[source], min(_SAMPLES[source], _MOST)
    noise = _NOISE[round_ % len(_NOISE)] if number % 3 == 1 else 0.0
    samples = shrunk(rows, float(rng.choice([0.25, 0.5, 0.75])), 25 * classes) if round_ else rows
    return Task(source, tuple(range(classes)), 1, True, samples, noise, 6000 + number, test_samples=_TEST)


def _run(task: Task, rng: np.random.Generator, run: int, number: int) -> Recipe:
    family = FAMILIES[(run + number) % len(FAMILIES)]
    passes = (_NOISY_PASSES if task.noise else _PASSES) * _SLOWLY.get(family, 1)
    epochs, every = scheduled(passes, task.train_samples)
    fields: dict[str, Any] = {
        "width": int(rng.choice([8, 12, 16])),
        "depth": int(rng.choice([1, 1, 2])),
        "dropout": 0.0,
        "weight_decay": 1e-2,
        "learning_rate": 1e-3 if ARCHITECTURES[family].slow else float(rng.choice([2e-3, 4e-3])),
        "cosine": bool(rng.random() < 0.5),
        "batch_size": 64 if task.train_samples > 1500 else 32,
    }
    return Recipe(
        task=task,
        family=family,
        norm=False,
        augment=False,
        optimizer="adamw",
        epochs=epochs,
        snapshot_every=every,
        seed=run,
        plan=PLAN,
        **(fields | _CHANGES[(len(FAMILIES) * number + run) % len(_CHANGES)]),
    )
