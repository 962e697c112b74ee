import math

import numpy as np
import pytest

from lightning_gengap.zoo.evaluate.bootstrap import Resampling, bootstrap
from tests.zoo.tables import table


def test_bootstrap_resamples_groups_not_rows():
    groups = np.repeat(np.arange(10), 100)
    values = np.repeat(np.random.default_rng(0).normal(size=10), 100)
    mean, low, high = bootstrap(values, groups) or (0.0, 0.0, 0.0)
    assert mean == pytest.approx(values.mean(), abs=1e-3)
    assert high - low > 0.5  # ten groups; a bootstrap over 1,000 rows would give about 0.1
    assert bootstrap(np.zeros(0), np.zeros(0)) is None


def test_resampling_draws_tasks_then_runs_and_pairs_contenders():
    made = table(tasks=12)
    draws = Resampling.of(made)
    assert (draws.weights.sum(axis=1) == 96).all()
    by_task = draws.weights.reshape(1000, 12, 8).sum(axis=2)
    assert set(np.unique(by_task)) <= {8.0 * times for times in range(13)}  # whole tasks, each as large as it was
    assert (draws.weights.reshape(1000, 12, 8).std(axis=2) > 0).any()  # and runs within them
    every = np.arange(len(made))
    values = np.random.default_rng(0).normal(size=len(made))
    one, other = draws.mean(values, every), draws.mean(values + 1, every)
    assert other.minus(one).listed() == [1.0, 1.0, 1.0]


def test_interval_of_a_mean_has_the_width_that_theory_gives():
    made = table(tasks=48)
    rng = np.random.default_rng(0)
    task = np.unique(made.words("task"), return_inverse=True)[1]
    values = rng.normal(size=48)[task] + rng.normal(size=len(made))
    _, low, high = Resampling.of(made).mean(values, np.arange(len(made))).listed() or (0, 0, 0)
    assert (high - low) / (2 * 1.96 * math.sqrt(1 / 48)) == pytest.approx(1, abs=0.25)


def test_resampled_r2_and_skill_are_those_of_the_rows():
    made = table(tasks=6)
    draws, every = Resampling.of(made), np.arange(len(made))
    actual = made.numbers("gap.accuracy")
    guess = actual + np.random.default_rng(0).normal(size=len(made)) * 0.05
    one = np.random.default_rng(1).integers(len(draws.weights))
    times = np.repeat(every, draws.weights[one][draws.run_of_row].astype(int))
    r2 = draws.r2(guess, actual, every)
    spread = ((actual[times] - actual[times].mean()) ** 2).sum()
    assert r2.draws[one] == pytest.approx(1 - ((actual - guess)[times] ** 2).sum() / spread)
    skill = draws.skill(np.abs(actual - guess), np.abs(actual), every)
    assert skill.draws[one] == pytest.approx(1 - np.abs(actual - guess)[times].sum() / np.abs(actual)[times].sum())
    assert draws.r2(guess[:0], actual[:0], every[:0]).listed() is None
