"""Held-out samples of finished runs: drawn by a model of what makes a sample hard, or taken from the test samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from test_predictions import TestPredictions

from lightning_gengap.zoo.table import Floats, Rows, Table

FAR, NEAR = 0.65, 0.17  # correlations of what makes a sample hard: in all of a task, and more between close epochs
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Drawn:
    """Of one run, at each of its rows: what held-out samples say, and what judges an estimate.

    Attributes:
        right: the share of the held-out samples that are right.
        tested: the test accuracy.
        halves: that on each half of the test samples, shape (2, rows): one marks the best epoch, one scores.
        test_samples: how many there are.
    """

    right: Floats
    tested: Floats
    halves: Floats
    test_samples: Floats


Random = np.random.Generator
Draw = Callable[[Rows, int, int], Drawn]  # rows of one run in the order of its epochs, number of samples, seed


def correctness(
    accuracies: Floats, epochs: Floats, samples: int, own: Random, of_task: Random, runs: Rows | None = None
) -> NDArray[np.bool_]:
    """Whether each sample is classified right at each epoch, shape (epochs, samples). They may be of several runs.

    `of_task` draws what makes a sample hard for all runs of a task, `own` the rest.
    """
    runs = np.zeros(len(epochs), np.int64) if runs is None else runs
    distance = np.abs(np.log(epochs)[:, None] - np.log(epochs))
    near = np.where(runs[:, None] == runs, NEAR * np.exp(-distance), 0.0)
    hard = np.linalg.cholesky(near + (1 - FAR - NEAR) * np.eye(len(epochs))) @ own.standard_normal(
        (len(epochs), samples)
    )
    hard += math.sqrt(FAR) * of_task.standard_normal(samples)
    thresholds = np.array([_NORMAL.inv_cdf(min(max(p, 1e-6), 1 - 1e-6)) for p in accuracies])
    right: NDArray[np.bool_] = hard < thresholds[:, None]
    return right


def true_accuracies(tested: Floats, test_samples: Floats, rng: Random) -> Floats:
    """What the test accuracies may really be, as half of their sampling variance is common to a run."""
    common, own = rng.standard_normal(), rng.standard_normal(len(tested))
    error = np.sqrt(tested * (1 - tested) / test_samples) * (common + own) / math.sqrt(2)
    return np.clip(tested + error, 0.0, 1.0)


def simulated_samples(table: Table) -> Draw:
    """Samples that are as often right as the test says; those of a task are the same for all its runs."""
    tested, n, epochs = (table.numbers(name) for name in ("gap.test_accuracy", "gap.test_samples", "epoch"))
    named = [f"gap.test_accuracy_{half}_half" for half in ("first", "second")]
    halves = np.stack([table.numbers(name) if name in table.columns else tested for name in named])
    tasks, runs = table.codes("task"), table.codes("run")

    def draw(rows: Rows, samples: int, seed: int) -> Drawn:
        of_task, own = (np.random.default_rng([seed, kind, codes[rows[0]]]) for kind, codes in enumerate((tasks, runs)))
        true = true_accuracies(tested[rows], n[rows], own)
        right = correctness(true, epochs[rows], samples, own, of_task).mean(axis=1)
        return Drawn(right, tested[rows], halves[:, rows], n[rows])

    return draw


@dataclass(frozen=True)
class RealAnswers:
    """Of one run, at some of its rows: samples out of the test set, and what the others say.

    Attributes:
        right: whether each held-out sample is classified right, shape (rows, samples).
        tested: the test accuracy on the other samples.
        halves: that on each half of them, shape (2, rows).
        test_samples: how many the others are.
    """

    right: NDArray[np.bool_]
    tested: Floats
    halves: Floats
    test_samples: Floats


RealDraw = Callable[[Rows, int, int], RealAnswers]  # rows of one run, number of samples, seed


def real_answers(table: Table, known: Mapping[str, TestPredictions]) -> RealDraw:
    """Answers on samples out of the test set; those of a task are the same for all its runs.

    Their labels get the noise of the training labels.
    """
    runs, tasks, epochs = table.words("run"), table.codes("task"), table.numbers("epoch")
    noise, classes = table.numbers("recipe.noise"), table.numbers("measure.classes")

    def draw(rows: Rows, samples: int, seed: int) -> RealAnswers:
        one, share, count = known[runs[rows[0]]], noise[rows[0]], classes[rows[0]]
        of_task = np.random.default_rng([seed, tasks[rows[0]]])
        predicted = one.predicted[np.searchsorted(one.epochs, epochs[rows])]
        order = of_task.permutation(len(one.labels))
        held, rest = order[:samples], order[samples:]
        noisy, drawn = of_task.random(samples) < share, of_task.integers(0, int(count), samples)
        right: NDArray[np.bool_] = predicted[:, held] == np.where(noisy, drawn, one.labels[held])
        correct = predicted[:, rest] == one.labels[rest]
        tested, first, second = (
            (1 - share) * part.mean(axis=1) + share / count for part in (correct, correct[:, ::2], correct[:, 1::2])
        )
        return RealAnswers(right, tested, np.stack([first, second]), np.full(len(rows), float(len(rest))))

    return draw


def real_samples(table: Table, known: Mapping[str, TestPredictions]) -> Draw:
    """Samples out of the test set, which the others judge. See `real_answers`."""
    answers = real_answers(table, known)

    def draw(rows: Rows, samples: int, seed: int) -> Drawn:
        found = answers(rows, samples, seed)
        return Drawn(found.right.mean(axis=1), found.tested, found.halves, found.test_samples)

    return draw
