"""The study's held-out samples are as correlated as it says, and every estimate has a line."""

from __future__ import annotations

import numpy as np
import pytest
from evidence import SIZES, correctness, scales, true_accuracies, worth

from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.fit.scales import held_out_residuals
from lightning_gengap.zoo.splits import by_task
from tests.zoo.tables import table

SPECIFICATION = Specification("small", (Term("train_loss", "log"), Term("difficulty/ridge_accuracy")), offset=2.0)


def test_correctness_is_as_frequent_as_said_and_correlated_over_epochs() -> None:
    rng = np.random.default_rng(0)
    right = correctness(np.array([0.6, 0.65, 0.7]), np.array([10.0, 11.0, 200.0]), 40_000, rng)
    assert right.mean(axis=1) == pytest.approx([0.6, 0.65, 0.7], abs=0.01)
    correlation = np.corrcoef(right)
    assert correlation[0, 1] == pytest.approx(0.6, abs=0.05)
    assert correlation[0, 2] == pytest.approx(0.45, abs=0.05)


def test_true_accuracies_lie_around_the_tested_ones() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([true_accuracies(np.full(2, 0.8), np.full(2, 400.0), rng) for _ in range(4000)])
    assert drawn.mean() == pytest.approx(0.8, abs=0.002)
    assert drawn.std(axis=0) == pytest.approx(0.02, rel=0.05)
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0.5, abs=0.05)


def test_samples_help_the_prediction_and_the_prediction_helps_the_samples() -> None:
    made = table(noise=0.3, tasks=12)
    found = held_out_residuals(made, SPECIFICATION, by_task(made), np.ones(len(made), bool))
    scale = scales(made, found, "by task")
    assert ((scale > 0.5) & (scale < 1.5)).all()
    lines = worth(made, found, "by task", draws=1)
    assert len(lines) == 1 + 3 * len(SIZES)
    errors = {(int(samples), name): float(error) for samples, name, error, *_ in lines}
    alone = errors[0, "prediction alone"]
    for samples in SIZES:
        of_samples, *joined = (error for (size, _), error in errors.items() if size == samples)
        assert max(joined) < min(alone, of_samples) * 1.02
    covered = [float(cells[4]) for cells in lines]
    assert all(0.8 < each <= 1 for each in covered)
