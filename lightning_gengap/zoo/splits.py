"""The frozen protocol: which part is locked, and how rows are split into what is fitted and what is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.zoo.table import Mask, Rows, Table

LOCKED_SOURCE, LOCKED_FAMILY, LOCKED_SHARE = "fashion_mnist", "vit", 1 / 3
_NO_IMAGES = "synthetic and tabular"
SIBLINGS = {
    "cifar10": "cifar",
    "cifar100": "cifar",
    "gaussians": _NO_IMAGES,
    "teacher": _NO_IMAGES,
    "breast_cancer": _NO_IMAGES,
    "optdigits": "digits",  # the same images, as a table
    "digits_table": "digits",
}
FOLDS = 10
LARGE_SIZES = (16_000, 50_000)

Split = tuple[str, Mask, Mask]  # name, rows to fit on, rows held out


def locked_parts(table: Table) -> dict[str, Mask]:
    """The rows that feature research and tuning must not see: a third of the tasks, one source, one family."""
    return {
        "tasks": np.array([_share(str(task)) < LOCKED_SHARE for task in table.words("task")]),
        f"source {LOCKED_SOURCE}": table.words("recipe.source") == LOCKED_SOURCE,
        f"family {LOCKED_FAMILY}": table.words("recipe.family") == LOCKED_FAMILY,
    }


def development(table: Table) -> Mask:
    """The rows outside every locked part."""
    return ~np.logical_or.reduce(list(locked_parts(table).values()))


def by_run(table: Table) -> Sequence[Split]:
    """Ten folds of whole runs; the other runs of a task stay in the fit."""
    return table.once("split by run", lambda: tuple(_folds(table.words("run"))))


def by_task(table: Table, folds: int = FOLDS) -> Sequence[Split]:
    """Ten folds of whole tasks; a held-out task takes along every task that shares over half of its classes."""
    return table.once(f"split by task {folds}", lambda: tuple(_by_task(table, folds)))


def _by_task(table: Table, folds: int) -> Iterator[Split]:
    tasks = table.words("task")
    kin = _kin(table)
    for name, fitted, held in _folds(tasks, folds):
        gone = set().union(*(kin[task] for task in set(tasks[held])))
        yield name, fitted & ~np.isin(tasks, list(gone)), held


def by_group(table: Table, column: str, siblings: Mapping[str, str] | None = None) -> Iterator[Split]:
    """Each value of a column held out once, with its siblings."""
    values = np.array([(siblings or {}).get(value, value) for value in table.words(column).tolist()])
    for value in sorted(set(values)):
        yield str(value), values != value, values == value


def by_size(table: Table) -> Iterator[Split]:
    """Tasks of at least five times as many training images as any that is fitted."""
    samples = table.numbers("recipe.train_samples")
    for fewest in LARGE_SIZES:
        yield f"{fewest} images and more", samples <= fewest / 5, samples >= fewest


def splits(table: Table) -> dict[str, list[Split]]:
    """All splits of the protocol by name."""
    return {
        "by run": list(by_run(table)),
        "by task": list(by_task(table)),
        "leave one family out": list(by_group(table, "recipe.family")),
        "leave one data set out": list(by_group(table, "recipe.source")),
        "leave one source out": list(by_group(table, "recipe.source", SIBLINGS)),
        "leave one noise level out": list(by_group(table, "recipe.noise")),
        "leave large sizes out": list(by_size(table)),
    }


def _folds(groups: NDArray[np.str_], folds: int = FOLDS) -> Iterator[Split]:
    """Folds of whole groups in the order of their hashes: no seed to choose, and stable when runs are added."""
    numbers = fold_of(groups, folds)
    for fold in range(int(numbers.max()) + 1):
        yield f"fold {fold + 1}", numbers != fold, numbers == fold


def fold_of(groups: NDArray[np.str_], folds: int = FOLDS) -> Rows:
    """For every row, the number of its fold of whole groups."""
    names, inverse = np.unique(groups, return_inverse=True)
    rank = np.argsort(np.argsort([_share(str(name)) for name in names], kind="stable"), kind="stable")
    numbers: Rows = (rank % folds)[inverse]
    return numbers


def _kin(table: Table) -> dict[str, set[str]]:
    """For each task, the tasks of the same source that share over half of its classes."""
    columns = ("task", "recipe.source", "recipe.classes")
    described = {
        task: (source, frozenset(classes.split()))
        for task, source, classes in zip(*(table.words(column).tolist() for column in columns), strict=True)
    }
    return {
        task: {
            other
            for other, (other_source, others) in described.items()
            if other_source == source and 2 * len(classes & others) > len(classes)
        }
        for task, (source, classes) in described.items()
    }


def _share(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8
