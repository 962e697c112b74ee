"""Observed gaps of other models, joined with predictions by the posterior of all evidence."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_gengap.errors import PredictorError
from lightning_gengap.predictors.files import dumps, loads
from lightning_gengap.predictors.observations import Observation
from lightning_gengap.predictors.parts import Scales
from lightning_gengap.predictors.recalibration import ObservedGap, described, recalibrate
from tests.tiny_predictors import abstaining_predictor, tiny_predictor

PREDICTOR = tiny_predictor()


def values(loss: float = 0.5) -> dict[str, float]:
    return {"train_accuracy": 0.95, "train_loss": loss, "classes": 10.0, "difficulty/ridge_accuracy": 0.4}


def gap_after(*pairs: tuple[float, int, str], loss: float = 0.5) -> float:
    """The gap that is predicted after observing these gaps of models with the same values."""
    observed = [ObservedGap(values(), gap, samples, same) for gap, samples, same in pairs]  # type: ignore[arg-type]
    return recalibrate(PREDICTOR, observed).predict(values(loss)).gap


def test_gaps_that_agree_change_nothing_but_the_width():
    pairs = [ObservedGap(values(loss), PREDICTOR.predict(values(loss)).gap, 500) for loss in (0.1, 0.3, 0.5)]
    again = recalibrate(PREDICTOR, pairs)
    before, after = PREDICTOR.predict(values(0.2)), again.predict(values(0.2))
    assert after.gap == pytest.approx(before.gap)
    assert after.upper - after.lower < before.upper - before.lower
    assert after.deviation < before.deviation
    assert again.name == "tiny_v1+recalibrated"
    assert len(again.observed) == 3


def test_the_gap_moves_towards_what_was_observed_by_what_it_is_worth():
    own = PREDICTOR.predict(values()).gap
    few, many, task, twice = (
        gap_after((0.3, 20, "recipe")),
        gap_after((0.3, 10_000, "recipe")),
        gap_after((0.3, 10_000, "task")),
        gap_after((0.3, 10_000, "task"), (0.3, 10_000, "task")),
    )
    assert own < few < many < 0.3
    assert own < task < twice < many
    assert many - own == pytest.approx(0.9 * (0.3 - own), rel=0.01)  # the correlation of one recipe
    assert task - own == pytest.approx(0.3 * (0.3 - own), rel=0.02)


def test_earlier_pairs_are_replaced():
    once = recalibrate(PREDICTOR, [ObservedGap(values(), 0.9, 100)])
    assert recalibrate(once, [(values(), 0.2, 100)]) == recalibrate(PREDICTOR, [ObservedGap(values(), 0.2, 100)])


def test_contributions_still_add_up():
    again = recalibrate(PREDICTOR, [(values(), 0.6, 1000, "recipe")])
    prediction = again.predict(values(0.1))
    assert math.fsum(prediction.contributions.values()) == pytest.approx(prediction.gap, abs=1e-12)
    assert prediction.contributions["recalibration"] > 0


def test_a_wider_scale_believes_the_pairs_more():
    pairs = [ObservedGap(values(), 0.3, 20, "recipe")]
    wider = replace(PREDICTOR, scales=Scales(neither=2.0))
    assert recalibrate(wider, pairs).predict(values()).gap > recalibrate(PREDICTOR, pairs).predict(values()).gap


def test_an_abstention_knows_of_no_pairs():
    again = replace(abstaining_predictor(), observed=recalibrate(PREDICTOR, [(values(), 0.6, 100)]).observed)
    assert again.predict(values()) == abstaining_predictor().predict(values())


def test_a_recalibrated_predictor_can_be_written_and_read():
    again = recalibrate(PREDICTOR, [(values(), 0.6, 1000, "recipe"), (values(0.1), 0.2, 50)])
    assert loads(dumps(again), "here") == again
    assert described(again) in described(loads(dumps(again), "here"))
    scaled = replace(PREDICTOR, scales=Scales(1.0, 1.4, 1.7))
    assert loads(dumps(scaled), "here") == scaled


def test_what_is_usual_is_left_out_of_the_file():
    assert not {"observed", "scales"} & set(dumps(PREDICTOR).split('"'))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"observed": (Observation(1.5, 0.5, 0.1, 100, kin="task"),)}, "of another model that is none"),
        ({"observed": (Observation(0.5, 0.5, 0.1, 100),)}, "of another model that is none"),
        ({"observed": (Observation(0.5, 0.5, 0.1, "1", kin="task"),)}, "which is not a whole number"),
        ({"observed": (Observation(0.5, 0.5, 0.1, 100, kin="friend"),)}, "kin 'friend'"),
        ({"scales": Scales(neither=0.0)}, "scales that are none"),
    ],
)
def test_damaged_evidence_in_a_file_is_refused(changes: dict[str, object], words: str):
    with pytest.raises(PredictorError, match=words):
        loads(dumps(replace(PREDICTOR, **changes)), "here")  # type: ignore[arg-type]


@pytest.mark.parametrize("gap", [5.0, -1.5, math.nan])
def test_gaps_that_are_no_fractions_are_refused(gap: float):
    with pytest.raises(PredictorError, match="Divide percentages by 100"):
        recalibrate(PREDICTOR, [ObservedGap(values(), gap, 100)])


@pytest.mark.parametrize("gap", [torch.tensor([0.1, 0.2]), "0.1", True, None])
def test_gaps_that_are_no_numbers_are_refused(gap: object):
    with pytest.raises(PredictorError, match="an observed gap of"):
        recalibrate(PREDICTOR, [ObservedGap(values(), gap, 100)])  # type: ignore[arg-type]


def test_a_gap_may_be_a_logged_metric():
    for gap in (torch.tensor(0.25), np.float32(0.25)):
        logged = recalibrate(PREDICTOR, [ObservedGap(values(), gap, 100)])  # type: ignore[arg-type]
        assert logged == recalibrate(PREDICTOR, [ObservedGap(values(), 0.25, 100)])


@pytest.mark.parametrize("samples", [0, -5, 0.5, True, None, "many"])
def test_pairs_without_a_number_of_samples_are_refused(samples: object):
    with pytest.raises(PredictorError, match="expected the number of held-out samples"):
        recalibrate(PREDICTOR, [(values(), 0.1, samples)])


@pytest.mark.parametrize("pair", [({}, 0.1), 3, ({}, 0.1, 10, "friend"), (None, 0.1, 10), "pair"])
def test_what_is_no_pair_is_refused(pair: object):
    with pytest.raises(PredictorError, match=r"observed gaps: got a .*number of held-out samples"):
        recalibrate(PREDICTOR, [pair])  # type: ignore[list-item]


def test_without_a_usable_pair_it_says_what_to_do():
    with pytest.raises(PredictorError, match="no pair on which the predictor does not abstain"):
        recalibrate(abstaining_predictor(), [(values(), 0.1, 100)])
    with pytest.raises(PredictorError, match="no pair"):
        recalibrate(PREDICTOR, [])
