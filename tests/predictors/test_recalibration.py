import math
from dataclasses import replace

import numpy as np
import pytest

from lightning_gengap.errors import PredictorError
from lightning_gengap.predictors.files import dumps, loads
from lightning_gengap.predictors.parts import Correction
from lightning_gengap.predictors.recalibration import (
    correction_of,
    live_correction,
    recalibrate,
    recalibrated,
    scaled_residual,
)
from tests.tiny_predictors import abstaining_predictor, tiny_predictor

PREDICTOR = tiny_predictor(provenance={"shared_by_task": 0.5})


def values(loss: float = 0.5) -> dict[str, float]:
    return {"train_accuracy": 0.95, "train_loss": loss, "classes": 10.0, "difficulty/ridge_accuracy": 0.4}


def test_observed_gaps_that_agree_change_nothing_but_the_width():
    pairs = [(values(loss), PREDICTOR.predict(values(loss)).gap) for loss in (0.1, 0.3, 0.5)]
    again = recalibrate(PREDICTOR, pairs)
    before, after = PREDICTOR.predict(values(0.2)), again.predict(values(0.2))
    assert after.gap == pytest.approx(before.gap)
    assert after.upper - after.lower < before.upper - before.lower
    assert again.name == "tiny_v1+recalibrated"
    assert again.correction is not None
    assert again.correction.pairs == 3


def test_the_gap_moves_towards_what_was_observed_and_the_more_the_more_pairs():
    gaps = []
    for count in (1, 4, 100):
        pairs = [(values(), 2 * PREDICTOR.predict(values()).gap)] * count
        gaps.append(recalibrate(PREDICTOR, pairs).predict(values()).gap)
    own = PREDICTOR.predict(values()).gap
    assert own < gaps[0] < gaps[1] < gaps[2] == pytest.approx(2 * own, rel=0.02)


def test_a_recalibrated_predictor_forgets_its_earlier_correction():
    once = recalibrate(PREDICTOR, [(values(), 0.9)])
    assert recalibrate(once, [(values(), 0.2)]) == recalibrate(PREDICTOR, [(values(), 0.2)])


def test_shrinkage_is_that_of_the_random_effects_model():
    # Residuals of a task: an effect of variance share, and noise of variance 1 - share; the posterior mean is best.
    rng = np.random.default_rng(0)
    share, count, tasks = 0.7, 3, 4000
    effects = rng.normal(0, math.sqrt(share), tasks)
    seen = effects[:, None] + rng.normal(0, math.sqrt(1 - share), (tasks, count))
    predictor = tiny_predictor(provenance={"shared_by_task": share})
    corrections = [correction_of(predictor, list(row)) for row in seen]
    left = effects - [correction.factor - 1 for correction in corrections]
    fresh = left + rng.normal(0, math.sqrt(1 - share), tasks)
    assert fresh.std() == pytest.approx(corrections[0].width, rel=4 / math.sqrt(2 * tasks))
    for other in (0.8, 1.2):  # no other weight leaves less
        assert np.std(effects - other * (effects - left)) > left.std()


def test_contributions_still_add_up():
    again = recalibrate(PREDICTOR, [(values(), 0.6)])
    prediction = again.predict(values(0.1))
    assert math.fsum(prediction.contributions.values()) == pytest.approx(prediction.gap, abs=1e-12)
    assert prediction.contributions["recalibration"] != 0


def test_a_recalibrated_predictor_can_be_written_and_read():
    again = recalibrate(PREDICTOR, [(values(), 0.6)])
    assert loads(dumps(again), "here") == again
    with pytest.raises(PredictorError, match="which is not a number"):
        loads(dumps(replace(again, correction=Correction("1", 1.0, 2))), "here")  # type: ignore[arg-type]


@pytest.mark.parametrize("gap", [5.0, -1.5, math.nan])
def test_gaps_that_are_no_fractions_are_refused(gap: float):
    with pytest.raises(PredictorError, match="Divide percentages by 100"):
        recalibrate(PREDICTOR, [(values(), gap)])


def test_without_a_usable_pair_it_says_what_to_do():
    with pytest.raises(PredictorError, match="no pair on which the predictor does not abstain"):
        recalibrate(abstaining_predictor(), [(values(), 0.1)])
    with pytest.raises(PredictorError, match="no pair"):
        recalibrate(PREDICTOR, [])


@pytest.mark.parametrize("factor", [0.2, 0.9, 1.3, 40.0])
@pytest.mark.parametrize("loss", [0.01, 0.5])
def test_a_prediction_can_be_corrected_without_its_values(factor: float, loss: float):
    correction = Correction(factor, 0.9, 3)
    corrected = replace(PREDICTOR, correction=correction).predict(values(loss))
    again = recalibrated(PREDICTOR, PREDICTOR.predict(values(loss)), correction, 0.95)
    assert again == pytest.approx(corrected.gap, abs=1e-12)
    assert 0 <= again <= 0.95


def test_corrections_compose():
    once = recalibrate(PREDICTOR, [(values(), 0.3)])
    assert once.correction is not None
    both = replace(once.correction, factor=1.2 * once.correction.factor)
    again = recalibrated(once, once.predict(values()), Correction(1.2, 1.0, 1), 0.95)
    assert again == pytest.approx(replace(once, correction=both).predict(values()).gap)


def test_a_residual_that_is_fully_believed_restores_the_observed_gap():
    prediction = PREDICTOR.predict(values())
    residual = scaled_residual(PREDICTOR, prediction, 0.3)
    assert recalibrated(PREDICTOR, prediction, Correction(1 + residual, 1.0, 1), 0.95) == pytest.approx(0.3)


def test_fifty_epochs_of_one_run_are_not_fifty_models():
    epochs = live_correction([0.5] * 50, age=1)
    assert 1 < epochs.factor < correction_of(PREDICTOR, [0.5] * 50).factor < 1.5
    assert epochs.factor == live_correction([0.5], age=1).factor


def test_the_latest_epoch_of_a_run_counts_the_less_the_older_it_is():
    assert live_correction([-0.4, 0.5], age=0).factor > 1 > live_correction([0.5, -0.4], age=0).factor
    factors = [live_correction([0.5], age).factor for age in (0, 1, 2, 40)]
    assert 1.5 > factors[0] > factors[1] > factors[2] > factors[3] == pytest.approx(1.0, abs=1e-5)
    assert live_correction([0.5], age=3).width == 1.0
