from dataclasses import replace

import numpy as np
import pytest

from lightning_gengap.predictors.components import Memoriser
from lightning_gengap.zoo.evaluate.comparable import term_of
from lightning_gengap.zoo.evaluate.held_out import hold_out
from lightning_gengap.zoo.evaluate.quick import hold_out_points, predicted_points
from lightning_gengap.zoo.splits import by_task
from tests.zoo.conftest import PLANTED
from tests.zoo.tables import rows, table, table_of


@pytest.mark.parametrize("components", [(), (Memoriser("train_accuracy", 0.1),)])
@pytest.mark.parametrize("balanced", [False, True])
def test_fast_ridge_equals_the_shipped_fit_inside_the_support(balanced: bool, components: tuple[Memoriser, ...]):
    made = table(noise=0.1)
    split, planted = list(by_task(made)), replace(PLANTED, balanced=balanced, components=components)
    among = np.ones(len(made), bool)
    exact, (rows, fast) = hold_out(made, planted, split, among), hold_out_points(made, planted, split, among)
    assert (exact.rows == rows).all()
    kept = ~exact.abstained
    assert kept.mean() > 0.9
    assert np.abs(exact.gap - fast)[kept].mean() < 2e-3  # values beyond the range are limited, not extrapolated


def test_constant_feature_is_ignored_rather_than_refused():
    made = [row | {"measure.train_samples": 500.0} for row in rows(8)]
    same, half = table_of(made), np.arange(len(made)) % 2 == 0
    assert np.isfinite(predicted_points(same, PLANTED, half, ~half)).all()


def test_measures_that_are_facts_of_the_task_are_no_measures_and_logs_are_taken_where_positive():
    assert term_of("norm/log_sum_spectral").transform == "identity"
    assert term_of("margin/h1/median").transform == "log"
    assert term_of("train_accuracy").transform == "identity"
    assert term_of("sharpness/expected_0.01").transform == "identity"
