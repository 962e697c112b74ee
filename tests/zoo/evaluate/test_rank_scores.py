import itertools
import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from lightning_gengap.zoo.evaluate.rank_scores import (
    conditional_mutual_information,
    kendall,
    kendall_pool,
    noise_ceiling,
    sign_errors,
)


def full_grid(levels: tuple[int, ...], seeds: int) -> list[np.ndarray]:
    settings = np.array(list(itertools.product(*map(range, levels), range(seeds))))
    return [settings[:, axis] for axis in range(len(levels))]


def mutual_information_by_loops(measure: np.ndarray, gap: np.ndarray, axes: list[np.ndarray]) -> float:
    lowest = math.inf
    for one, other in itertools.combinations(axes, 2):
        cells: dict[tuple[int, ...], dict[tuple[bool, bool], int]] = {}
        for i, j in itertools.product(range(len(gap)), repeat=2):
            cell = cells.setdefault((one[i], one[j], other[i], other[j]), {})
            outcome = (bool(gap[i] > gap[j]), bool(measure[i] > measure[j]))
            cell[outcome] = cell.get(outcome, 0) + 1
        information, entropy = 0.0, 0.0
        for cell in cells.values():
            total = sum(cell.values())
            share = [sum(n for (v, _), n in cell.items() if v == side) / total for side in (False, True)]
            of_measure = [sum(n for (_, m), n in cell.items() if m == side) / total for side in (False, True)]
            entropy -= sum(p * math.log2(p) for p in share if p > 0)
            information += sum(
                n / total * math.log2(n / total / (share[v] * of_measure[m])) for (v, m), n in cell.items()
            )
        lowest = min(lowest, information / entropy)
    return 100 * lowest


def sign_errors_by_loops(measure: np.ndarray, gap: np.ndarray, axes: list[np.ndarray]) -> tuple[float, float]:
    settings = list(zip(*axes, strict=True))
    environments: dict[frozenset[tuple[int, ...]], list[float]] = {}
    for i, j in itertools.combinations(range(len(gap)), 2):
        if sum(a != b for a, b in zip(settings[i], settings[j], strict=True)) == 1:
            wrong = (1 - np.sign(gap[i] - gap[j]) * np.sign(measure[i] - measure[j])) / 2
            environments.setdefault(frozenset((settings[i], settings[j])), []).append(wrong)
    errors = [sum(wrong) / len(wrong) for wrong in environments.values()]
    return sum(errors) / len(errors), max(errors)


def test_conditional_mutual_information_of_a_perfect_measure_is_100_and_of_noise_nearly_0():
    rng = np.random.default_rng(0)
    axes = full_grid((3, 3, 3), 4)
    gap = rng.normal(size=108)
    assert conditional_mutual_information(np.exp(gap), gap, axes) == pytest.approx(100)
    noise = [conditional_mutual_information(rng.normal(size=108), gap, axes) for _ in range(5)]
    assert max(noise) < 8


def test_conditional_mutual_information_agrees_with_loops_over_pairs_and_cells():
    rng = np.random.default_rng(1)
    axes = full_grid((2, 3, 2), 2)
    gap = rng.normal(size=24)
    measure = np.round(gap + rng.normal(size=24), 0)  # rounded: with ties
    expected = mutual_information_by_loops(measure, gap, axes)
    assert conditional_mutual_information(measure, gap, axes) == pytest.approx(expected, abs=1e-9)
    assert 0 < expected < 100


def test_a_measure_that_only_follows_one_hyperparameter_scores_low_given_its_value():
    rng = np.random.default_rng(2)
    axes = full_grid((3, 3, 3), 4)
    gap = 10.0 * axes[0] + rng.normal(size=108)
    measure = 10.0 * axes[0] + rng.normal(size=108)
    assert kendall(measure, gap) > 0.6
    assert conditional_mutual_information(measure, gap, axes) < 8


def test_sign_errors_are_0_for_a_perfect_measure_1_for_the_reverse_and_half_for_a_constant():
    axes = full_grid((3, 2, 2), 2)
    gap = np.random.default_rng(0).normal(size=24)
    perfect, reverse, constant = (sign_errors(m, gap, axes, 2000) for m in (3 * gap, -gap, np.ones(24)))
    assert perfect["mean"] == perfect["worst"] == perfect["worst_axis"] == perfect["resolved"] == 0
    assert reverse["mean"] == reverse["worst"] == 1
    assert constant["mean"] == constant["worst"] == 0.5
    assert perfect["environments"] == 12 + 6 + 6  # pairs of levels of one axis, at each setting of the others


def test_sign_errors_agree_with_loops_and_noise_is_a_coin():
    rng = np.random.default_rng(3)
    axes = full_grid((2, 3, 2), 3)
    gap = rng.normal(size=36)
    found = sign_errors(measure := gap + rng.normal(size=36), gap, axes, 2000)
    assert (found["mean"], found["worst"]) == pytest.approx(sign_errors_by_loops(measure, gap, axes))
    noise = [sign_errors(rng.normal(size=36), gap, axes, 2000)["mean"] for _ in range(40)]
    assert abs(np.mean(noise) - 0.5) < 4 * np.std(noise) / np.sqrt(40)


def test_worst_axis_names_the_hyperparameter_that_misleads_and_unresolved_pairs_are_left_out():
    axes = full_grid((2, 2), 1)
    gap = np.array([0.10, 0.101, 0.50, 0.501])  # the second axis moves it by less than a test set resolves
    measure = np.array([1.0, 0.0, 3.0, 2.0])  # right along the first axis, wrong along the second
    found = sign_errors(measure, gap, axes, 1000)
    assert (found["mean"], found["worst_axis"], found["resolved"]) == (0.5, 1.0, 0.0)
    assert sign_errors(measure, np.ones(4), axes, 1000) == {}


def test_kendall_ranks_nothing_by_a_constant():
    assert kendall(np.ones(5), np.arange(5.0)) == 0
    assert kendall(np.arange(5.0), np.arange(5.0)) == pytest.approx(1)


def test_resampled_taus_agree_with_pairs_counted_one_by_one():
    rng = np.random.default_rng(4)
    runs = np.array(["b", "a", "c", "a", "b", "c", "d"])
    score, actual = np.round(rng.normal(size=7), 1), np.round(rng.normal(size=7), 1)
    pool = kendall_pool(score, actual, runs, draws=6)
    weights = np.random.default_rng(4).multinomial(4, np.full(4, 0.25), size=6)
    of = np.unique(runs, return_inverse=True)[1]
    for tau, weight in zip(pool, weights, strict=True):
        sums = np.zeros(3)
        for i, j in itertools.combinations(range(7), 2):
            times = weight[of[i]] * (weight[of[j]] if of[i] != of[j] else 1)
            one, other = np.sign(score[i] - score[j]), np.sign(actual[i] - actual[j])
            sums += times * np.array([one * other, abs(one), abs(other)])
        assert tau == pytest.approx(sums[0] / math.sqrt(sums[1] * sums[2]))


def test_resampled_taus_scatter_around_the_tau_itself():
    rng = np.random.default_rng(5)
    actual = rng.normal(size=60)
    score, runs = actual + rng.normal(size=60), np.repeat(np.arange(60).astype(str), 1)
    pool = kendall_pool(score, actual, runs)
    assert abs(pool.mean() - kendalltau(score, actual).statistic) < 0.02
    assert 0.03 < pool.std() < 0.1


def test_noise_ceiling_rises_to_one_with_the_test_set_and_is_nothing_between_equals():
    accuracy = np.linspace(0.5, 0.9, 20)
    small, large, huge = (noise_ceiling(accuracy, np.full(20, n)) for n in (100.0, 2000.0, 1e7))
    assert small < large < huge
    assert huge > 0.99
    assert noise_ceiling(np.full(20, 0.8), np.full(20, 1000.0)) < 0.6  # what is left is the luck of the posterior
