"""Ridge in sums over slices, against a refit without each sample in turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_gengap.measures.agreement.answers import signs
from lightning_gengap.measures.agreement.sliced_ridge import SlicedRidge
from lightning_gengap.measures.difficulty.leave_one_out_scores import left_out_scores, standardised_gram

TESTED, OTHERS, CLASSES = 15, 20, 3


def task(width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ranks = torch.randint(CLASSES, (TESTED + OTHERS,), generator=generator)
    rows = torch.randn(len(ranks), width, generator=generator, dtype=torch.float64)
    return rows + torch.eye(width).double()[ranks], ranks


def refit(rows: np.ndarray, labels: np.ndarray, strength: float, points: np.ndarray) -> np.ndarray:
    """What ridge on these rows says of points: the weights of the normal equations, and a free mean."""
    size = rows.shape[1]
    design = np.hstack([rows, np.ones((len(rows), 1))])
    penalty = np.diag([strength * size] * size + [0.0])
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ labels)
    return np.hstack([points, np.ones((len(points), 1))]) @ weights


@pytest.mark.parametrize("strength", [1e-3, 0.3])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("width", [6, 50])
def test_each_tested_sample_is_scored_as_by_a_refit_without_it(strength: float, mirrored: bool, width: int) -> None:
    rows, ranks = task(width)
    labels = signs(ranks, CLASSES)
    others = list(zip(rows[TESTED:].split(7), labels[TESTED:].split(7), strict=True))
    ridge = SlicedRidge.of(rows[:TESTED], labels[:TESTED])
    for part, of_part in others:
        ridge = SlicedRidge.restored(ridge.kept())
        ridge.add(part, of_part)
    seen = rows[:TESTED] ** 2 if mirrored else rows[:TESTED]
    own = ridge.centred(rows[:TESTED])
    found = ridge.solved(strength).left_out(own, labels[:TESTED], ridge.centred(seen) if mirrored else None)
    tested = rows[:TESTED]
    standard = ((rows - tested.mean(0)) / tested.std(0, correction=0)).numpy()
    points = ((seen - tested.mean(0)) / tested.std(0, correction=0)).numpy()
    for i in range(TESTED):
        rest = np.arange(len(rows)) != i
        expected = refit(standard[rest], labels.numpy()[rest], strength, points[i : i + 1])[0]
        assert found[i].numpy() == pytest.approx(expected, abs=1e-9)
    assert int(ridge.count) == TESTED + OTHERS


@pytest.mark.parametrize("width", [6, 50])
@pytest.mark.parametrize("alone", [False, True])
def test_without_others_it_is_kernel_ridge(width: int, alone: bool) -> None:
    rows, ranks = task(width)
    rows[:, 2] = 5.0  # does not vary
    ridge = SlicedRidge.of(rows, signs(ranks, CLASSES), alone)
    assert (ridge.basis is not None) == (alone and width > len(rows))
    found = ridge.solved(1e-2).left_out(ridge.centred(rows), signs(ranks, CLASSES))
    assert found.numpy() == pytest.approx(left_out_scores(standardised_gram(rows), ranks)[1].numpy(), abs=1e-9)


def test_a_label_of_no_class_is_one_against_all() -> None:
    assert signs(torch.tensor([1, -1]), 2).tolist() == [[-1.0, 1.0], [-1.0, -1.0]]
