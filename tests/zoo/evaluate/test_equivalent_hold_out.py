"""m* is the size of the hold-out that errs as much: known by simulation, and by its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_gengap.zoo.evaluate.equivalent_hold_out import HoldOuts


def simulated(held_out: int, tested: int, rows: int = 4000, tasks: int = 40) -> HoldOuts:
    """Predictions that are the accuracy on so many held-out samples, judged on so many test samples."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 0.95, rows)
    said, test = (rng.binomial(samples, truth) / samples for samples in (held_out, tested))
    return HoldOuts.of(said - test, test, np.full(rows, float(tested)), np.arange(rows) % tasks)


@pytest.mark.parametrize("held_out", [50, 300])
@pytest.mark.parametrize("tested", [2000, 10_000])
def test_a_hold_out_is_worth_its_own_samples(held_out: int, tested: int) -> None:
    value, low, high = simulated(held_out, tested).equivalent().listed() or [0.0] * 3
    assert 0.85 * held_out <= value <= 1.15 * held_out
    assert low <= held_out <= high


def test_a_prediction_that_errs_less_than_the_test_itself_is_worth_any_number() -> None:
    exact = HoldOuts.of(np.zeros(20), np.full(20, 0.8), np.full(20, 2000.0), np.arange(20) % 5)
    assert math.isinf(exact.equivalent().value)


def test_tasks_of_a_kind_count_alike_and_so_do_kinds() -> None:
    tasks = np.array([0, 0, 0, 1, 2])
    kinds = np.array([7, 7, 7, 7, 9])
    known = HoldOuts.of(np.array([0.3, 0.3, -0.3, 0.1, 0.4]), np.full(5, 0.8), np.full(5, 2000.0), tasks, kinds)
    assert known.errors == pytest.approx([0.3, 0.1, 0.4])
    assert known.weights == pytest.approx([0.25, 0.25, 0.5])


def test_it_is_where_both_curves_meet() -> None:
    known = HoldOuts.of(np.array([0.02, 0.05]), np.array([0.9, 0.6]), np.array([2000.0, 5000.0]), np.arange(2))
    found = known.equivalent().value
    pairs = ((0.9, 2000.0), (0.6, 5000.0))
    expected = np.mean([math.sqrt(2 / math.pi * p * (1 - p) * (1 / found + 1 / n)) for p, n in pairs])
    assert expected == pytest.approx(0.035)
