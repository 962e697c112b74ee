"""What prediction and evidence say together, as it is shown."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_gengap.errors import PredictorError
from lightning_gengap.predictors.estimate import EstimatedAccuracy, estimate, expected, observed
from lightning_gengap.predictors.given import Given
from lightning_gengap.predictors.parts import NORMAL_QUANTILE, Interval, probe_error
from lightning_gengap.predictors.predictor import FLAT_DEVIATION
from lightning_gengap.predictors.recalibration import recalibrate
from tests.predictors.test_recalibration import values
from tests.tiny_predictors import abstaining_predictor, tiny_predictor

VALUES = values() | {"probe_samples": 1000.0, "train_samples": 1000.0}
SYMMETRIC = tiny_predictor(interval=Interval(0.9, 0.3, -0.2, 0.2))
PREDICTION = SYMMETRIC.predict(VALUES)


def test_the_deviation_is_that_of_the_interval():
    prediction = tiny_predictor().predict(VALUES)
    assert NORMAL_QUANTILE * prediction.deviation == pytest.approx((prediction.upper - prediction.lower) / 2)


def test_fewer_measured_samples_widen_the_interval_but_not_the_deviation():
    few = SYMMETRIC.predict(VALUES | {"probe_samples": 256.0})
    assert few.upper > PREDICTION.upper
    assert few.deviation == PREDICTION.deviation


def test_without_evidence_it_is_the_prediction():
    for prediction in (PREDICTION, tiny_predictor().predict(VALUES)):
        found = estimate(prediction, VALUES, [], epoch=5.0)
        assert found is not None
        assert (found.gap, found.lower, found.upper) == pytest.approx(
            (prediction.gap, prediction.lower, prediction.upper)
        )
        assert found.test_accuracy == pytest.approx(0.95 - prediction.gap)
        p, away = found.test_accuracy, prediction.deviation
        assert found.equivalent_hold_out == pytest.approx(min(p, 1 - away) * (1 - min(p, 1 - away)) / away**2)


def test_with_a_larger_scale_held_out_samples_count_more():
    seen = [observed(0.7, 200, "held_out", PREDICTION, 0.95, 5.0)]
    once, twice = (estimate(PREDICTION, VALUES, seen, 5.0, scale) for scale in (1.0, 2.0))
    assert once is not None
    assert twice is not None
    assert 0.7 < twice.test_accuracy < once.test_accuracy
    assert twice.upper - twice.gap > once.upper - once.gap
    assert twice.equivalent_hold_out < once.equivalent_hold_out


def test_without_evidence_no_scale_alters_the_interval():
    once, twice = (estimate(PREDICTION, VALUES, [], 5.0, scale) for scale in (1.0, 2.0))
    assert once is not None
    assert twice is not None
    assert (twice.lower, twice.gap, twice.upper) == (once.lower, once.gap, once.upper)
    assert twice.equivalent_hold_out == pytest.approx(once.equivalent_hold_out / 4, rel=0.01)


def test_held_out_samples_move_and_narrow_it():
    seen = [observed(0.7, 200, "held_out", PREDICTION, 0.95, 5.0)]
    found = estimate(PREDICTION, VALUES, seen, 5.0)
    assert found is not None
    assert 0.95 - PREDICTION.gap > found.test_accuracy > 0.7
    assert found.gap == pytest.approx(0.95 - found.test_accuracy)
    assert found.upper - found.lower < PREDICTION.upper - PREDICTION.lower
    assert found.equivalent_hold_out > 200


def test_the_gap_has_the_error_of_the_train_accuracy_besides():
    known = VALUES | {"probe_samples": 100.0, "train_samples": 10_000.0}
    seen = [observed(0.8, 10**9, "held_out", PREDICTION, 0.95, 5.0)]
    found = estimate(PREDICTION, known, seen, 5.0)
    assert found is not None
    assert found.upper - found.gap == pytest.approx(NORMAL_QUANTILE * probe_error(0.95, 100, 10_000), rel=1e-3)


def test_an_abstention_with_held_out_samples_is_nearly_their_accuracy():
    prediction = abstaining_predictor().predict(VALUES)
    assert prediction.deviation == FLAT_DEVIATION
    assert estimate(prediction, VALUES, [], 5.0) is None
    seen = [observed(0.4, 200, "held_out", prediction, 0.95, 5.0)]
    found = estimate(prediction, VALUES, seen, 5.0)
    assert found is not None
    assert found.test_accuracy == pytest.approx(0.4, abs=0.01)
    assert found.equivalent_hold_out == pytest.approx(200, rel=0.05)


def test_other_models_alone_do_not_end_an_abstention():
    given = Given.of(tiny_predictor(), [(values(), 0.3, 100)])
    assert estimate(abstaining_predictor().predict(VALUES), VALUES, given.pairs, 5.0) is None


def test_it_stays_within_what_accuracies_can_be():
    seen = [observed(0.0, 10**6, "held_out", PREDICTION, 0.95, 5.0)]
    found = estimate(PREDICTION, VALUES, seen, 5.0, scale=10.0)
    assert found is not None
    assert found.test_accuracy >= 0
    assert found.upper <= 0.95
    better = [observed(1.0, 10**6, "held_out", PREDICTION, 0.95, 5.0)]
    found = estimate(PREDICTION, VALUES, better, 5.0, scale=10.0)
    assert found is not None
    assert found.lower >= -0.05 - 1e-12


def test_a_learning_curve_is_an_observation_with_a_deviation():
    curve = expected(EstimatedAccuracy(0.8, 0.01), PREDICTION, 0.95, 20.0)
    found = estimate(PREDICTION, VALUES, [curve], 20.0)
    assert found is not None
    own = PREDICTION.deviation**2
    weight = own / (own + 0.0001)
    assert found.test_accuracy == pytest.approx((1 - weight) * (0.95 - PREDICTION.gap) + weight * 0.8)


def test_two_estimates_of_the_final_accuracy_both_count_in_any_order():
    sure, unsure = (expected(EstimatedAccuracy(0.8, error), PREDICTION, 0.95, 20.0) for error in (0.01, 0.05))
    alone, one, other = (
        estimate(PREDICTION, VALUES, listed, 20.0) for listed in ([sure], [sure, unsure], [unsure, sure])
    )
    assert alone is not None
    assert one is not None
    assert other is not None
    assert (one.gap, one.lower, one.upper) == pytest.approx((other.gap, other.lower, other.upper))
    assert one.equivalent_hold_out == pytest.approx(other.equivalent_hold_out)
    assert one.equivalent_hold_out > alone.equivalent_hold_out


def test_evidence_is_sorted_by_its_kind():
    given = Given.of(tiny_predictor(), [(values(), 0.3, 100), EstimatedAccuracy(0.7, 0.02)])
    assert len(given.pairs) == 1
    assert given.at_end == (EstimatedAccuracy(0.7, 0.02),)
    assert Given.of(None, None) == Given()


def test_what_is_listed_twice_is_known_once():
    pair, estimated = (values(), 0.3, 100), EstimatedAccuracy(0.7, 0.02)
    assert Given.of(tiny_predictor(), [pair, estimated] * 2) == Given.of(tiny_predictor(), [pair, estimated])
    own = recalibrate(tiny_predictor(), [pair])
    assert Given.of(own, [pair]).pairs == own.observed


def test_an_estimate_may_be_made_of_tensors():
    given = Given.of(tiny_predictor(), [EstimatedAccuracy(torch.tensor(0.5), torch.tensor(0.25))])  # type: ignore[arg-type]
    assert given.at_end == (EstimatedAccuracy(0.5, 0.25),)


@pytest.mark.parametrize("curve", [(70.0, 0.02), (0.7, 0.0), (0.7, math.nan), ("0.7", 0.1)])
def test_estimates_that_are_no_fractions_are_refused(curve: tuple[float, float]):
    with pytest.raises(PredictorError, match=r"a test accuracy in .0, 1. and its standard deviation"):
        Given.of(tiny_predictor(), [EstimatedAccuracy(*curve)])
