"""Tables as users have them: MLPs and residual MLPs, most of them to convergence, some on noisy labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lightning_gengap.zoo.train.plans.schedule import scheduled, shrunk
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.tables import EMBEDDED, KEEL
from lightning_gengap.zoo.train.task import Task

PLAN, TASKS = "tables", 48
FAMILIES = ("mlp", "residual_mlp")
# Classes, and rows to train on. Small and large tables, easy and hard ones take turns.
SOURCES = {
    **{name: (classes, rows // 2) for name, (classes, rows) in KEEL.items()},
    "breast_cancer": (2, 380),
    "wine": (EMBEDDED["wine"], 89),
    "digits_table": (EMBEDDED["digits_table"], 898),
}
_SEED = 12
_MOST, _TEST = 4000, 4000  # samples
_PASSES, _NOISY_PASSES = 70_000, 160_000  # of single samples
_NOISE = (0.3, 0.2, 0.4, 0.1)
_REGULARISED: tuple[dict[str, Any], ...] = (
    {"dropout": 0.3},
    {"weight_decay": 1.0},
    {},
    {"label_smoothing": 0.1},
    {"mixup": 0.2},
)


def table_zoo(tasks: int = TASKS) -> Iterator[Recipe]:
    """Recipes of tasks on 16 tables in turn, four runs each: two families, each once plain and once regularised.

    The first time round a table is whole, up to 4,000 rows; later it is a part. A third of the tasks have noisy labels,
    and each table has some.
    """
    for number in range(tasks):
        rng = np.random.default_rng([_SEED, number])
        task = _task(rng, number)
        for run in range(2 * len(FAMILIES)):
            yield _run(task, rng, run, number)


def _task(rng: np.random.Generator, number: int) -> Task:
    round_, place = divmod(number, len(SOURCES))
    source = list(SOURCES)[place]
    classes, rows = SOURCES[source]
    noisy = (place + round_) % 3 == 1
    noise = _NOISE[(place // 3 + round_) % len(_NOISE)] if noisy else 0.0
    samples = shrunk(min(rows, _MOST), float(rng.choice([0.25, 0.5])), 25 * classes) if round_ else min(rows, _MOST)
    return Task(source, tuple(range(classes)), 1, True, samples, noise, 5000 + number, test_samples=_TEST)


def _run(task: Task, rng: np.random.Generator, run: int, number: int) -> Recipe:
    epochs, every = scheduled(_NOISY_PASSES if task.noise else _PASSES, task.train_samples)
    sgd = bool(rng.random() < 0.3)
    fields: dict[str, Any] = {
        "width": int(rng.choice([4, 8, 16])),
        "depth": int(rng.choice([1, 2])),
        "norm": bool(rng.random() < 0.6),
        "dropout": 0.0,
        "weight_decay": 0.0,
        "optimizer": "sgd" if sgd else "adamw",
        "learning_rate": float(rng.choice([0.02, 0.05] if sgd else [1e-3, 3e-3])),
        "cosine": bool(rng.random() < 0.5),
        "batch_size": 64 if task.train_samples > 1500 else 32,
    }
    changes = _REGULARISED[(2 * number + run) % len(_REGULARISED)] if run >= len(FAMILIES) else {}
    if changes.get("weight_decay") and sgd:
        changes = {"weight_decay": 5e-3}  # it is not decoupled there
    return Recipe(
        task=task,
        family=FAMILIES[run % len(FAMILIES)],
        augment=False,
        epochs=epochs,
        snapshot_every=every,
        seed=run,
        plan=PLAN,
        **(fields | changes),
    )
