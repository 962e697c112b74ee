"""Drawn held-out samples are as correlated as the study says; real ones are taken out of what judges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from held_out_samples import correctness, real_samples, simulated_samples, true_accuracies
from test_predictions import TestPredictions, read, write

from tests.zoo.tables import table

COUNT = 40_000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_correctness_is_as_frequent_as_said_and_correlated_over_epochs() -> None:
    right = correctness(np.array([0.6, 0.65, 0.7]), np.array([10.0, 11.0, 200.0]), COUNT, rng(), rng(1))
    assert right.mean(axis=1) == pytest.approx([0.6, 0.65, 0.7], abs=0.01)
    correlation = np.corrcoef(right)
    assert correlation[0, 1] == pytest.approx(0.6, abs=0.05)
    assert correlation[0, 2] == pytest.approx(0.45, abs=0.05)


def test_what_is_hard_for_one_run_is_hard_for_another_of_the_task() -> None:
    accuracy, epoch = np.array([0.7]), np.array([10.0])
    one, other, elsewhere = (
        correctness(accuracy, epoch, COUNT, rng(own), rng(task))[0] for own, task in ((1, 9), (2, 9), (3, 8))
    )
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(0.45, abs=0.05)
    assert np.corrcoef(one, elsewhere)[0, 1] == pytest.approx(0.0, abs=0.02)


def test_true_accuracies_lie_around_the_tested_ones() -> None:
    generator = rng()
    drawn = np.array([true_accuracies(np.full(2, 0.8), np.full(2, 400.0), generator) for _ in range(4000)])
    assert drawn.mean() == pytest.approx(0.8, abs=0.002)
    assert drawn.std(axis=0) == pytest.approx(0.02, rel=0.05)
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0.5, abs=0.05)


def test_simulated_samples_are_judged_by_the_table() -> None:
    made = table(tasks=2)
    rows = np.flatnonzero(made.words("run") == made.words("run")[0])
    drawn = simulated_samples(made)(rows, 500, seed=0)
    assert (drawn.tested == made.numbers("gap.test_accuracy")[rows]).all()
    assert np.abs(drawn.right - drawn.tested).max() < 0.15
    assert (simulated_samples(made)(rows, 500, seed=0).right == drawn.right).all()
    assert (simulated_samples(made)(rows, 500, seed=1).right != drawn.right).any()


def test_real_samples_are_not_among_those_that_judge(tmp_path: Path) -> None:
    made = table(tasks=1)
    run = made.words("run")[0]
    rows = np.flatnonzero(made.words("run") == run)
    epochs = made.numbers("epoch")[rows].astype(np.int64)
    labels = rng().integers(0, 10, 1000).astype(np.int16)
    predicted = np.where(rng(1).random((len(rows), 1000)) < 0.7, labels, (labels + 1) % 10).astype(np.int16)
    write(tmp_path / "predictions.npz", {str(run): TestPredictions(predicted, labels, epochs)})
    drawn = real_samples(made, read(tmp_path / "predictions.npz"))(rows, 300, seed=0)
    noise, classes = made.numbers("recipe.noise")[rows], made.numbers("measure.classes")[rows]
    clean = (drawn.tested - noise / classes) / (1 - noise)
    right = (predicted == labels).sum(axis=1)
    if not noise.any():
        assert 300 * drawn.right + 700 * clean == pytest.approx(right)
    assert clean == pytest.approx(right / 1000, abs=0.05)
    assert (drawn.test_samples == 700).all()
    assert drawn.halves.mean(axis=0) == pytest.approx(drawn.tested)
