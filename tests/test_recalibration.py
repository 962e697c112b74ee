import math
from dataclasses import replace

import numpy as np
import pytest

from lightning_gengap.errors import PredictorError
from lightning_gengap.predictor import Correction
from lightning_gengap.predictor_files import dumps, loads
from lightning_gengap.recalibration import correction_of, recalibrate
from tests.predictors import abstaining_predictor, tiny_predictor

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
    with pytest.raises(PredictorError, match="not finite"):
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
