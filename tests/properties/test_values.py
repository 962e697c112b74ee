"""Whatever a training is made of, the values that it shows are of the present weights, or they win nothing."""

from __future__ import annotations

import math
import tempfile
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_gengap import GapEarlyStopping
from tests.lightning_models import quiet_trainer
from tests.properties.effort import examples
from tests.properties.trainings import Learner, Loaders, Training, trainings
from tests.properties.truth import Witness, WitnessCallback, WitnessLogger
from tests.tiny_predictors import ALWAYS, tiny_monitor, tiny_predictor, wide_feature

pytestmark = pytest.mark.filterwarnings("ignore")
STATUS, GAP, ACCURACY = "gengap/status", "gengap/predicted_gap", "gengap/predicted_test_accuracy"
FRESH, ABSTAINING = 0, 3
STAND_INS = (0.0, 1.0)  # the ends of the range of an accuracy, which win nothing


def witnessed(chosen: Training, *readers: Callback, **arguments: Any) -> Witness:
    """What a training shows."""
    # The copies of a stream begin with the first batch that finds no lazy layer.
    assume(chosen.order != "stream" or not any("lazy" in name for name in chosen.parts.names))
    torch.manual_seed(3)
    witness = Witness(chosen)
    witness.drawn = chosen.drawn(chosen.monitor["samples"])
    condition = chosen.condition()
    # One feature that every network has, so that no prediction is an abstention.
    predictor = tiny_predictor(measures=(), features=(wide_feature("train_loss", "log", -0.1),))
    logger, monitor = WitnessLogger(witness), tiny_monitor(predictor=predictor, **chosen.monitor)
    options = condition.trainer | {"logger": logger} | arguments
    trainer = quiet_trainer(monitor, *readers, WitnessCallback(witness), **options)
    trainer.fit(Learner(chosen), Loaders(chosen))
    return witness


def assert_true(witness: Witness) -> None:
    """Every value that a logger gets is of the weights of that moment, and no prediction comes twice."""
    measured: dict[int, dict[str, float]] = {}
    for seen in witness.logged:
        assert all(math.isfinite(value) for value in seen.row.values())
        if "gengap/train_loss" in seen.row:
            assert seen.truth.has(seen.row)
            assert seen.weights not in measured
            measured[seen.weights] = seen.row
        # Where nothing is learned yet, the prediction abstains, and what is measured is of now all the same.
        assert (seen.row[STATUS] == FRESH) == (GAP in measured.get(seen.weights, ()))
        assert seen.row[STATUS] in (FRESH, ABSTAINING) or seen.weights not in measured
        assert GAP not in seen.row or "gengap/train_loss" in seen.row
        if "gengap/actual_gap" in seen.row:
            accuracy = measured[seen.weights]["gengap/train_accuracy"]
            assert seen.row["gengap/actual_gap"] == pytest.approx(accuracy - seen.validation, abs=1e-6)
    assert measured


def assert_found(witness: Witness) -> None:
    """Callbacks find finite values: of now, or no better than the worst that was of its weights."""
    fresh: list[dict[str, float]] = []
    logged = iter(witness.logged)
    for seen in witness.found:
        row = seen.row
        assert row.keys() >= ALWAYS
        assert all(math.isfinite(value) for value in row.values())
        assert row[STATUS] in (0, 1, 2, 3, 4, 5)
        assert row["gengap/predicted_gap_lower"] <= row[GAP] <= row["gengap/predicted_gap_upper"] or row[STATUS] != 0
        fresh += [before.row for before in logged_until(logged, seen.weights) if GAP in before.row]
        if row[STATUS] == FRESH:
            assert seen.truth.has(row)
        elif fresh:
            assert row[GAP] >= max(each[GAP] for each in fresh) - 1e-6
            assert row[ACCURACY] <= min(each[ACCURACY] for each in fresh) + 1e-6


def logged_until(logged: Any, weights: int) -> list[Any]:
    """Those of the rows up to these weights."""
    taken = []
    for seen in logged:
        taken.append(seen)
        if seen.weights >= weights:
            break
    return taken


@examples(16)
@given(trainings())
def test_values_are_those_of_brute_force(chosen: Training) -> None:
    witness = witnessed(chosen)
    assert_true(witness)
    assert_found(witness)
    assert witness.found


@examples(16)
@given(trainings(), st.sampled_from(["min", "max"]), st.sampled_from([1, 2]))
def test_checkpoints_keep_fresh_values(chosen: Training, mode: str, top: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        keeper = ModelCheckpoint(folder, "{epoch}-{step}", ACCURACY, mode=mode, save_top_k=top)
        witness = witnessed(chosen, keeper, enable_checkpointing=True)
    assert_true(witness)
    values = [seen.row[ACCURACY] for seen in witness.logged if ACCURACY in seen.row]
    kept = [score for score in map(float, keeper.best_k_models.values()) if score not in STAND_INS]
    assert all(min(abs(score - value) for value in values) < 1e-6 for score in kept)


@examples(8)
@given(trainings())
def test_stoppers_read_values_of_now(chosen: Training) -> None:
    stopping = EarlyStopping(GAP, mode="min", patience=1)
    witness = witnessed(chosen, stopping, GapEarlyStopping(patience=1))
    assert_true(witness)
    best = float(stopping.best_score)
    values = [seen.row[GAP] for seen in witness.logged if GAP in seen.row]
    assert best in (*STAND_INS, math.inf) or min(abs(best - value) for value in values) < 1e-6
