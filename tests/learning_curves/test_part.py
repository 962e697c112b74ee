"""Where a training is read at another train accuracy than its last one."""

from __future__ import annotations

import pytest

from lightning_gengap.learning_curves.part import Part

PART = Part(100, 400, 1.0, 0.70, (0, 2, 4, 6, 8), (0.1, 0.5, 0.7, 0.9, 1.0), (0.1, 0.4, 0.6, 0.8, 0.72), 1.0)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (1.0, 0.70),
        (0.998, 0.70),  # as good as its end
        (0.9, 0.78),  # all test samples are 2 points worse at the end than those read after epochs
        (0.8, 0.68),
        (0.6, 0.48),
        (0.05, 0.08),  # nearest
    ],
)
def test_the_test_accuracy_is_that_at_the_same_train_accuracy(train: float, test: float):
    assert PART.test_accuracy_at(train) == pytest.approx(test, abs=1e-3)


def test_the_last_such_epoch_counts_where_train_accuracy_falls_again():
    part = Part(100, 400, 0.9, 0.6, (1, 2, 3, 4), (0.5, 0.8, 0.5, 0.9), (0.3, 0.5, 0.4, 0.6), 1.0)
    assert part.test_accuracy_at(0.7) == pytest.approx(0.5)
    assert part.test_accuracy_at(0.95) == pytest.approx(0.6)
