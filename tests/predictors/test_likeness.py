"""How alike what predictions miss is: a Gaussian that exists, sure of the same weights, and none far away."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_gengap.predictors.likeness import ALIKE, STRETCH, Points


@pytest.mark.parametrize("between", [0.0, *ALIKE.values()])
def test_its_covariance_is_that_of_some_gaussian(between: float):
    rng = np.random.default_rng(0)
    epochs, runs = rng.integers(1, 6, 40), rng.integers(0, 2, 40)
    predicted = 0.7 + 0.05 * rng.standard_normal((2, 6))[runs, epochs]  # of the same weights it is the same
    sizes = rng.uniform(0.01, 0.1, 40)
    covariance = Points(predicted, sizes, epochs.astype(float), runs).covariance(between)
    assert np.allclose(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12
    assert np.diag(covariance) == pytest.approx(sizes**2)


def test_it_falls_with_the_distance_of_the_predictions():
    points = Points.of([0.9, 0.7, 0.7, 0.7, 0.72], [0.05] * 5, [1, 2, 2, 3, 3], [0, 0, 0, 0, 1])
    covariance = points.covariance(ALIKE["task"]) / 0.05**2
    assert covariance[1, 2] == 1.0  # the same weights
    assert covariance[1, 3] == pytest.approx(ALIKE["run"])
    assert covariance[0, 3] == pytest.approx(ALIKE["run"] * np.exp(-2.0))
    assert covariance[3, 4] == pytest.approx(ALIKE["task"] * np.exp(-0.2))


def test_small_differences_are_stretched_and_large_ones_hardly():
    for difference, factor in ((1e-4, STRETCH), (0.8, 1 + 2 * (STRETCH - 1) * 0.1 / 0.8)):
        points = Points.of([0.1 + difference, 0.1], [0.05] * 2, [1, 1], [0, 1])
        one, other = points.stretched()
        assert one - other == pytest.approx(factor * difference, rel=0.01)


def test_predictions_that_are_sure_can_be_compared():
    covariance = Points.of([0.6, 0.5], [0.0, 0.0], [1, 1], [0, 1]).covariance(ALIKE["task"])
    assert not covariance.any()
