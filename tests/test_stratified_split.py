"""Samples that are set aside by class, and the nested parts of a learning curve."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from lightning_gengap import hold_out
from lightning_gengap.errors import ConfigurationError, DataError
from lightning_gengap.stratified_split import apportioned, rank_in_class, stratified_order
from tests.lightning_models import stream

RNG = np.random.default_rng(0)
LABELS = RNG.choice(6, 500, p=[0.5, 0.3, 0.1, 0.06, 0.03, 0.01])


def data(labels: np.ndarray = LABELS) -> TensorDataset:
    return TensorDataset(torch.arange(len(labels)), torch.from_numpy(labels))


@pytest.mark.parametrize("m", [10, 57, 200, 250])
def test_each_class_has_its_share_to_the_sample(m: int):
    rest, held = hold_out(data(), m, seed=3)
    assert isinstance(rest, Subset)
    assert len(held) == m
    assert sorted([*rest.indices, *held.indices]) == list(range(500))
    shares = np.bincount(LABELS) * m / 500
    assert np.abs(np.bincount(LABELS[held.indices], minlength=6) - shares).max() < 1
    assert set(LABELS[rest.indices]) == set(range(6))


def test_it_is_drawn_by_seed_and_draws_nothing_else():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    dataset = data()
    one, same, other = (hold_out(dataset, 50, seed)[1].indices for seed in (1, 1, 2))
    assert one == same != other
    assert one == sorted(one)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert states[:2] == after[:2]
    assert torch.equal(states[2], after[2])
    assert hold_out(dataset, 50)[0].dataset is dataset


def test_largest_remainders_decide_and_no_class_is_emptied():
    assert apportioned(np.array([60, 30, 9, 1]), 20).tolist() == [12, 6, 2, 0]
    assert apportioned(np.array([5, 5, 5]), 7).tolist() == [3, 2, 2]
    assert apportioned(np.array([2, 2, 2, 2, 12]), 10).tolist() == [1, 1, 1, 1, 6]
    assert apportioned(np.array([1] * 9 + [11]), 10).tolist() == [0] * 9 + [10]
    for _ in range(50):
        sizes = RNG.integers(1, 30, RNG.integers(2, 20))
        m = int(min(sizes.sum() // 2, (sizes - 1).sum()))
        counts = apportioned(sizes, m)
        assert counts.sum() == m
        assert ((counts >= 0) & (counts < sizes)).all()


@pytest.mark.parametrize("m", [9, 0, -10, 10.0, "20", True, None])
def test_a_number_of_samples_that_is_none_is_refused(m):
    with pytest.raises(ConfigurationError, match=r"hold_out\(m=\): got .*; expected a whole number of at least 10"):
        hold_out(data(), m)


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ConfigurationError, match="got 251 of 500 samples; expected half of them at most"):
        hold_out(data(), 251)
    with pytest.raises(ConfigurationError, match=r"hold_out\(seed=\): got 0.5"):
        hold_out(data(), 20, seed=0.5)
    with pytest.raises(DataError, match="got 22 classes in 25 samples; expected so many samples a class"):
        hold_out(data(np.r_[np.zeros(4, int), np.arange(1, 22)]), 10)
    with pytest.raises(DataError, match="whose samples have no index"):
        hold_out(stream().dataset, 20)


def test_a_numpy_integer_is_a_number_of_samples():
    assert len(hold_out(data(), np.int64(20))[1]) == 20


def test_ranks_are_a_permutation_of_each_class():
    ranks = rank_in_class(LABELS, seed=0)
    for label in range(6):
        assert sorted(ranks[label == LABELS]) == list(range((label == LABELS).sum()))
    assert (ranks != rank_in_class(LABELS, seed=1)).any()


def test_the_beginnings_of_an_order_are_stratified_and_hold_every_class():
    order = stratified_order(LABELS, seed=0)
    assert sorted(order) == list(range(500))
    assert set(LABELS[order[:6]]) == set(range(6))
    for size in (30, 62, 125, 250):
        counts = np.bincount(LABELS[order[:size]], minlength=6)
        assert np.abs(counts - np.bincount(LABELS) * size / 500).max() < 2
