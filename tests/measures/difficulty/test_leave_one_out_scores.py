from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.difficulty import leave_one_out_scores
from lightning_gengap.measures.difficulty.leave_one_out_scores import (
    RIDGES,
    WIDE,
    distances_to_others,
    learning_curve,
    leave_one_out_class_means,
    leave_one_out_error,
    leave_one_out_neighbours,
    leave_one_out_ridge,
    left_out_scores,
    standardised_gram,
    vote_of_neighbours,
)
from lightning_gengap.network.probe import copy_state
from tests import networks, oracles
from tests.probes import measured

CLASSES = 3


def clusters(count: int = 45, features: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping classes of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, CLASSES, (count,), generator=generator)
    centres = torch.randn(CLASSES, features, generator=generator)
    return (centres[targets] + 1.5 * torch.randn(count, features, generator=generator)).double(), targets


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("features", [6, 30])
def test_ridge_equals_refits_without_each_sample(seed: int, features: int) -> None:
    rows, targets = clusters(features=features, seed=seed)
    rows[:, 2] = 0.1  # a feature without variation
    expected = oracles.leave_one_out_ridge(rows.numpy(), targets.numpy(), RIDGES)
    assert expected > 0.3
    assert leave_one_out_ridge(rows, targets) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("neighbours", [1, 2, 3, 10, 100])
def test_neighbours_equal_a_loop_over_samples(seed: int, neighbours: int) -> None:
    rows, targets = clusters(seed=seed)
    expected = oracles.leave_one_out_neighbours(rows.numpy(), targets.numpy(), neighbours)
    assert leave_one_out_neighbours(rows, targets, neighbours) == pytest.approx(expected, abs=1e-12)


def wide(count: int = 60, features: int = 2 * WIDE) -> tuple[Tensor, Tensor]:
    """Rows of many features, far from zero, one of which does not vary."""
    rows, targets = clusters(count, features)
    rows[:, 3] = 7.0
    return rows + 1000, targets


def test_wide_rows_are_compared_in_float32_as_in_float64() -> None:
    rows, targets = wide()
    exact = ((rows[:, None] - rows) ** 2).sum(2)
    found = distances_to_others(rows)
    assert found.dtype == torch.float32
    assert found.fill_diagonal_(0).numpy() == pytest.approx(exact.numpy(), rel=1e-4, abs=1e-2)
    for neighbours in (1, 10):
        expected = oracles.leave_one_out_neighbours(rows.numpy(), targets.numpy(), neighbours)
        assert leave_one_out_neighbours(rows, targets, neighbours) == pytest.approx(expected, abs=1e-3)
    standard = (rows - rows.mean(0)) / rows.std(0, correction=0)
    standard = standard[:, torch.arange(rows.shape[1]) != 3]
    assert standardised_gram(rows).numpy() == pytest.approx(
        (standard @ standard.T / standard.shape[1]).numpy(), abs=1e-5
    )
    expected = oracles.leave_one_out_ridge(rows.numpy(), targets.numpy(), RIDGES)
    assert leave_one_out_ridge(rows, targets) == pytest.approx(expected, abs=1e-3)


def test_a_row_far_from_all_others_costs_these_no_digits() -> None:
    rows, targets = wide()
    rows[0, 0] = 1e30
    assert distances_to_others(rows).dtype == torch.float64
    assert leave_one_out_neighbours(rows, targets, 1) == pytest.approx(
        oracles.leave_one_out_neighbours(rows.numpy(), targets.numpy(), 1)
    )


def test_distances_are_halved_with_their_samples() -> None:
    rows, targets = clusters(80)
    by_rows = learning_curve("a", partial(leave_one_out_neighbours, neighbours=3), rows, targets, 320)
    vote = partial(vote_of_neighbours, neighbours=3)
    assert learning_curve("a", vote, distances_to_others(rows), targets, 320, square=True) == by_rows


def test_a_tie_of_neighbours_goes_to_the_nearer() -> None:
    line, targets = torch.tensor([[0.0], [1.0], [-2.0], [50.0]]).double(), torch.tensor([1, 1, 0, 0])
    assert leave_one_out_neighbours(line[:3], targets[:3], 2) == pytest.approx(2 / 3)
    assert oracles.leave_one_out_neighbours(line[:3].numpy(), targets[:3].numpy(), 2) == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(4))
def test_class_means_equal_a_loop_over_samples(seed: int) -> None:
    rows, targets = clusters(seed=seed)
    expected = oracles.leave_one_out_class_means(rows.numpy(), targets.numpy())
    assert leave_one_out_class_means(rows, targets) == pytest.approx(expected, abs=1e-12)


def test_a_class_of_one_sample_and_an_absent_class_have_no_mean() -> None:
    rows, targets = clusters()
    targets = torch.where(targets == 1, 4, targets)
    targets[0] = 5
    expected = oracles.leave_one_out_class_means(rows.numpy(), targets.numpy())
    assert leave_one_out_class_means(rows, targets) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("train_samples", "doublings"), [(320, 2), (80, 0), (20, 0)])
def test_a_learning_curve_is_a_line_over_the_log_of_the_samples(train_samples: int, doublings: int) -> None:
    def scored(rows: Tensor, labels: Tensor) -> float:
        assert labels.bincount().tolist() == [len(rows) // 4] * 4  # every class is halved
        return 0.3 if len(rows) == 80 else 0.25

    rows, targets = torch.randn(80, 5), torch.arange(80) % 4
    curve = learning_curve("a/b", scored, rows, targets, train_samples)
    assert curve == pytest.approx({"a/b_accuracy": 0.3, "a/b_growth": 0.05, "a/b_extrapolated": 0.3 + 0.05 * doublings})


def test_what_is_extrapolated_stays_a_fraction_and_needs_the_train_size() -> None:
    rows, targets = torch.randn(80, 5), torch.arange(80) % 4
    for rise, end in ((0.5, 1.0), (-0.5, 0.0)):
        curve = learning_curve("a", lambda x, y, by=rise: 0.5 + by * (len(x) == 80) * 0.9, rows, targets, 80 * 2**4)  # type: ignore[misc]
        assert curve["a_extrapolated"] == end
    assert isinstance(learning_curve("a", lambda x, y: 0.5, rows, targets, None)["a_extrapolated"], Undefined)


def test_votes_are_counted_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, targets = clusters()
    whole = leave_one_out_neighbours(rows, targets, 10)
    monkeypatch.setattr(leave_one_out_scores, "VOTES", 10 * 3 * 7)
    assert leave_one_out_neighbours(rows, targets, 10) == whole


@pytest.mark.parametrize(("left", "why"), [(2**12, "not fit into memory: they"), (2**40, "minutes of one core")])
def test_what_is_too_much_to_compare_is_absent(left: int, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, targets = clusters()
    monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda: left)
    monkeypatch.setattr("lightning_gengap.derivatives.time.A_SECOND", len(rows) ** 2 * rows.shape[1] / 100)
    for score in (leave_one_out_ridge, partial(leave_one_out_neighbours, neighbours=10)):
        curve = learning_curve("a", score, rows, targets, 100)
        assert set(curve) == {"a_*"}
        reason = str(curve["a_*"].reason)  # type: ignore[union-attr]
        assert f"of {len(rows)} samples, by {rows.shape[1]} numbers each, would" in reason
        assert reason.endswith("; use fewer samples")
        assert why in reason


def test_neighbours_of_duplicates_find_each_other() -> None:
    rows, targets = clusters(20)
    assert leave_one_out_neighbours(torch.cat([rows, rows]), torch.cat([targets, targets]), 1) == 1
    assert np.isclose(leave_one_out_neighbours(torch.cat([rows, rows]), torch.cat([targets, (targets + 1) % 3]), 1), 0)


def test_ridge_does_not_learn_the_label_from_the_balance_of_the_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 2000, generator=generator, dtype=torch.float64)
    balanced = torch.arange(200)[torch.randperm(200, generator=generator)] % 4
    assert leave_one_out_ridge(noise, balanced) < 0.4  # chance is 0.25; the labels have nothing to do with the noise


@pytest.mark.parametrize("features", [3, 50])
def test_the_error_is_that_of_refits_without_each_sample(features: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, targets = torch.randn(30, features, generator=generator).double(), torch.arange(30) % 3
    rows[:, 0] += targets
    gram, signs = standardised_gram(rows), oracles.signed(targets.numpy())
    errors = [np.mean((oracles.refits(gram.numpy(), targets.numpy(), ridge) - signs) ** 2) for ridge in RIDGES]
    found = leave_one_out_error(left_out_scores(gram, targets), targets)
    assert found == pytest.approx(min(errors) / signs.var(axis=0).mean(), rel=1e-9)


def test_features_without_information_have_an_error_of_at_least_about_one() -> None:
    noise = torch.randn(200, 100, generator=torch.Generator().manual_seed(0)).double()
    error = leave_one_out_error(left_out_scores(standardised_gram(noise), torch.arange(200) % 4), torch.arange(200) % 4)
    assert 0.95 < error < 1.6


@pytest.mark.parametrize("name", ["difficulty", "input_difficulty", "kernel_difficulty", "representation"])
def test_measures_need_five_samples_per_class_that_is_present(name: str) -> None:
    model, (images, targets) = networks.made(networks.cnn), networks.pictures(19)
    initial = copy_state(model)
    found = measured(name, model, images, targets, initial_state=initial)
    assert (found.values, list(found.absent.values())) == (
        {},
        ["19 samples of 4 classes are too few; samples=20 are enough"],
    )
    assert measured(name, model, images[:15], targets[:15] % 3, initial_state=initial).values
