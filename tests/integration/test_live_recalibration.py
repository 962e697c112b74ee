"""The recalibrated gap in training: it appears with the first comparison, is kept, and alters no prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_gengap.monitor.readout import LARGE
from lightning_gengap.predictors.parts import LossHead
from lightning_gengap.predictors.recalibration import live_correction, recalibrated
from tests.lightning_models import (
    ValidatedModel,
    fitted,
    loader,
    quiet_trainer,
    resumed,
    saved,
    validation_loader,
)
from tests.tiny_predictors import abstaining_predictor, tiny_monitor, tiny_predictor, wide_feature

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent")  # small samples lack some measures
KEY = "gengap/recalibrated_gap"


def test_each_validation_moves_the_recalibrated_gap_towards_what_it_saw():
    monitor = tiny_monitor()
    values = fitted(monitor, validate=True, max_epochs=4)
    predicted, shown, actual = values("gengap/predicted_gap"), values(KEY), values("gengap/actual_gap")
    for before, after, observed in zip(predicted, shown, actual, strict=True):
        assert 0 <= after <= 1
        assert abs(after - max(observed, 0.0)) <= abs(before - max(observed, 0.0))
    assert len(monitor._state.residuals) == 4
    correction = live_correction(monitor._state.residuals, age=0)
    accuracy = values("gengap/train_accuracy")[-1]
    assert shown[-1] == pytest.approx(recalibrated(monitor.predictor, monitor.prediction, correction, accuracy))


def test_the_prediction_is_the_same_whether_its_gap_is_observed_or_not():
    blind = fitted(tiny_monitor(validation_accuracy="another"), validate=True, max_epochs=3)
    seeing = fitted(tiny_monitor(), validate=True, max_epochs=3)
    for key in ("predicted_gap", "predicted_gap_lower", "predicted_gap_upper", "predicted_test_accuracy", "status"):
        assert seeing(f"gengap/{key}") == blind(f"gengap/{key}")
    assert all(KEY not in row for row in blind.rows)


def test_it_appears_with_the_first_validation_and_stays():
    values = fitted(tiny_monitor(), validate=True, max_epochs=5, check_val_every_n_epoch=2)
    assert [KEY in row for row in values.rows] == [False, True, True, True, True]
    moved = [abs(row[KEY] / row["gengap/predicted_gap"] - 1) for row in values.rows[1:]]
    assert moved[1] < moved[0]  # an old comparison counts less


def test_a_validation_beside_a_held_prediction_teaches_nothing():
    monitor = tiny_monitor(every_n_epochs=3)
    values = fitted(monitor, validate=True, max_epochs=5)
    assert values("gengap/status") == [0, 1, 0, 1, 0]
    assert len(monitor._state.residuals) == 3
    assert values(KEY)[1] == values(KEY)[0]
    assert values(KEY)[3] == max(values(KEY)[:3])  # what is not of now is the worst so far
    assert values("gengap/actual_gap")[3] == max(values("gengap/actual_gap")[:3:2])


def test_abstentions_teach_nothing():
    monitor = tiny_monitor(predictor=abstaining_predictor())
    values = fitted(monitor, validate=True)
    assert values("gengap/status") == [3, 3]
    assert all(KEY not in row for row in values.rows)
    assert monitor.state_dict()["residuals"] == []


def test_what_was_learned_survives_a_resume(tmp_path: Path):
    first, monitor = tiny_monitor(), tiny_monitor()
    path = saved(tmp_path, first, epochs=2, validate=True)
    values = resumed(path, monitor, epochs=3, validate=False)
    assert monitor.state_dict()["residuals"] == first._state.residuals
    assert len(first._state.residuals) == 2
    assert values(KEY)[0] != values("gengap/predicted_gap")[0]


def test_a_held_recalibrated_gap_survives_a_resume(tmp_path: Path):
    first = tiny_monitor(every_n_epochs=5)
    path = saved(tmp_path, first, epochs=2, validate=True)
    values = resumed(path, tiny_monitor(every_n_epochs=5), epochs=4, validate=True)
    assert values("gengap/status") == [1, 0]
    assert values(KEY)[0] == pytest.approx(first._state.readout.extremes["recalibrated_gap"][1])


def test_the_first_rank_speaks_for_all(monkeypatch: pytest.MonkeyPatch):
    monitor = tiny_monitor()
    trainer = quiet_trainer(monitor, max_epochs=1)
    own = trainer.strategy.broadcast
    others = iter([0.25])  # the residual that rank 0 sends to this one

    def from_first(obj: Any, src: int = 0) -> Any:
        return next(others) if isinstance(obj, float) else own(obj, src)

    monkeypatch.setattr(trainer.strategy, "broadcast", from_first)
    trainer.fit(ValidatedModel(), loader(), validation_loader())
    assert monitor.state_dict()["residuals"] == [0.25]


def test_callbacks_find_a_loss_gap_that_wins_nothing_though_a_feature_of_its_head_is_missing():
    head = LossHead(-1.0, (wide_feature("perturbation/mix_accuracy", "identity", 1.0),), below=-1.0, above=1.0)
    values = fitted(tiny_monitor(predictor=replace(tiny_predictor(), loss_head=head)))
    assert values("gengap/status") == [0, 0]
    assert values("gengap/predicted_loss_gap") == [LARGE] * 2
