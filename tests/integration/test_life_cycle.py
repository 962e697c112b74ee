"""The monitor through stops, resumes, errors and unusual Trainers."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.tuner import Tuner
from torch import Tensor

from lightning_gengap import GapEarlyStopping, GapMonitor
from lightning_gengap.measures import MEASURED
from lightning_gengap.monitor.logged_keys import AGES, PREDICTED
from tests.hooks import hooks
from tests.lightning_models import (
    EpochValues,
    MemoryLogger,
    TinyModel,
    ValidatedModel,
    fitted,
    loader,
    quiet_trainer,
    stream,
    validation_loader,
)
from tests.tiny_predictors import ALWAYS, tiny_monitor, tiny_predictor

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent")  # small samples lack some measures


def test_fitting_twice_with_one_trainer_continues():
    monitor, values = tiny_monitor(), EpochValues()
    trainer, model = quiet_trainer(monitor, values, max_epochs=1), TinyModel()
    trainer.fit(model, loader())
    initial = monitor.state_dict()["memory"]["initial_state"]
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model.train(), loader())
    assert values("gengap/status") == [0, 0]
    assert all(torch.equal(initial[k], v) for k, v in monitor.state_dict()["memory"]["initial_state"].items())
    assert monitor.state_dict()["training_loss"]["sums"][1] == 8


def test_a_monitor_starts_afresh_in_another_trainer():
    monitor = tiny_monitor()
    fitted(monitor)
    first = monitor.state_dict()
    fitted(monitor, model=TinyModel(learning_rate=0.01))
    assert monitor.state_dict()["training_loss"]["sums"][1] == 8
    assert monitor.state_dict()["memory"]["initial_state"] is not first["memory"]["initial_state"]
    assert "initial_weights" not in monitor.state_dict()["flags"]


def test_trained_weights_are_flagged():
    model, monitor = TinyModel(), tiny_monitor()
    fitted(tiny_monitor(), model=model)
    fitted(monitor, model=model.train())
    assert "initial_weights" in monitor.prediction.outside
    assert not monitor.prediction.in_support


@pytest.mark.parametrize(
    "arguments",
    [
        {"fast_dev_run": True},
        {"max_steps": 6, "max_epochs": 9},
        {"limit_train_batches": 1},
        {"validate": True, "num_sanity_val_steps": 2},
        {"overfit_batches": 2},
        {"data": stream(), "limit_train_batches": 1},
        {"data": loader(batch_size=1), "limit_train_batches": 3},
        {"data": stream(1), "limit_train_batches": 30},
    ],
    ids=["fast_dev_run", "max_steps", "one batch", "sanity", "overfit", "stream", "single", "single stream"],
)
@pytest.mark.parametrize("verbosity", ["quiet", "full"])
@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.filterwarnings("ignore:Expected more than 1 value")
def test_every_key_is_present_and_finite_from_the_first_epoch(arguments: dict[str, Any], verbosity: str):
    values = fitted(tiny_monitor(verbosity=verbosity), **arguments)
    assert values.rows
    for row in values.rows:
        assert row.keys() >= ALWAYS
        assert all(math.isfinite(value) for value in row.values())
        assert all(_in_range(key.removeprefix("gengap/"), row[key]) for key in row if key.startswith("gengap/"))
    assert values.rows[0].keys() >= {key for row in values.rows for key in row if key in ALWAYS}


def _in_range(name: str, value: float) -> bool:
    key = (PREDICTED | AGES | MEASURED)[name]
    return key.low - 1e-6 <= value <= key.high + 1e-6


def test_max_steps_in_mid_epoch_counts_as_the_whole_plan():
    monitor = tiny_monitor()
    fitted(monitor, max_steps=6, max_epochs=100)
    assert monitor.values["progress"] == 1.0
    fitted(monitor, max_steps=100, max_epochs=2)
    assert monitor.values["progress"] == 1.0
    fitted(monitor, max_steps=16, max_epochs=-1, limit_train_batches=4)
    assert monitor.values["progress"] == 1.0


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_are_measured(precision: Any):
    monitor = tiny_monitor(verbosity="full")
    values = fitted(monitor, precision=precision)
    assert values("gengap/status") == [0, 0]
    assert values("gengap/train_accuracy")[-1] > 0.9
    assert "speed/train_loss_mean" in monitor.values


@pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval")
def test_a_learning_rate_search_before_training_leaves_nothing(tmp_path: Path):
    monitor, model = tiny_monitor(), TinyModel()
    trainer = quiet_trainer(monitor, default_root_dir=tmp_path)
    Tuner(trainer).lr_find(model, loader(), num_training=3, attr_name="learning_rate", update_attr=False)
    assert monitor.values == {}
    trainer.fit(model.train(), loader())
    assert monitor.prediction.in_support


def test_barebones_switches_it_off(caplog: pytest.LogCaptureFixture):
    monitor = tiny_monitor()
    trainer = Trainer(accelerator="cpu", max_epochs=1, barebones=True, callbacks=[monitor])
    with pytest.warns(UserWarning, match="barebones"):  # Lightning's, about what the model logs
        trainer.fit(TinyModel(), loader())
    assert "GapMonitor is switched off" in caplog.text
    assert monitor.values == {}
    assert monitor.prediction is None


def test_validate_alone_does_nothing():
    monitor = tiny_monitor()
    trainer, model = quiet_trainer(monitor, max_epochs=1, check_val_every_n_epoch=2), ValidatedModel()
    (metrics,) = trainer.validate(model, validation_loader(), verbose=False)
    assert set(metrics) == {"val_acc"}
    assert monitor.values == {}
    trainer.fit(model, loader(), validation_loader())
    assert "gengap/actual_gap" not in trainer.callback_metrics  # that epoch had no validation


def test_the_monitor_can_be_pickled_before_and_after_training():
    monitor = tiny_monitor()
    assert pickle.loads(pickle.dumps(monitor)).values == {}
    fitted(monitor)
    assert pickle.loads(pickle.dumps(monitor)).values == monitor.values


class Interrupted(TinyModel):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.hooks_in_step = max(getattr(self, "hooks_in_step", 0), hooks(self))
        if self.current_epoch == 1:
            raise RuntimeError("interrupted")
        return super().training_step(batch, batch_idx)


def test_no_hooks_and_no_samples_are_left():
    model, monitor = TinyModel(), tiny_monitor()
    own = hooks(model)  # its metric has some
    fitted(monitor, model=model)
    assert hooks(model) == own
    assert monitor._state.measurer is None
    interrupted = Interrupted()
    with pytest.raises(RuntimeError, match="interrupted"):
        fitted(monitor, model=interrupted)
    assert interrupted.hooks_in_step > own
    assert hooks(interrupted) == own
    assert monitor._state.measurer is None


def test_two_monitors_keep_their_values_apart():
    other = tiny_predictor(name="other_v1", intercept=0.3)
    first, second, logger = tiny_monitor(), tiny_monitor(predictor=other), MemoryLogger()
    stopping = GapEarlyStopping("gengap/other_v1/predicted_gap", mode="max", max_gap=0.999)
    values = fitted(first, second, stopping, logger=logger)
    assert second.prediction.gap == pytest.approx(first.prediction.gap + 0.2)
    assert values("gengap/predicted_gap")[-1] == pytest.approx(first.prediction.gap)
    assert values("gengap/other_v1/predicted_gap")[-1] == pytest.approx(second.prediction.gap)
    assert values("gengap/other_v1/status") == [0, 0]
    assert float(stopping.best_score) == max(values("gengap/other_v1/predicted_gap"))


def test_two_monitors_with_one_predictor_are_refused_by_lightning():
    with pytest.raises(RuntimeError, match="GapMonitor"):
        quiet_trainer(tiny_monitor(), tiny_monitor())


def test_a_monitor_without_predictor_only_measures():
    values = fitted(GapMonitor(predictor=None, budget=None, verbosity="quiet"))
    logged = {key for key in values.rows[-1] if key.startswith("gengap/")}
    assert logged == {"gengap/train_accuracy", "gengap/train_loss", "gengap/status", "gengap/overhead"}
