"""Whoever monitors a gengap key reads this epoch's value, or is told before training how to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_gengap import GapEarlyStopping, GapMonitor
from lightning_gengap.errors import ConfigurationError
from tests.lightning_models import TinyModel, ValidatedModel, careless, fitted, put_measure
from tests.tiny_predictors import abstaining_predictor, tiny_monitor

KEYS = ("gengap/predicted_test_accuracy", "gengap/predicted_gap")


class Reader(EarlyStopping):
    """Lightning's early stopping that never stops and keeps what it read, by epoch."""

    def __init__(self, monitor: str, **arguments: Any) -> None:
        super().__init__(monitor, patience=100, mode="max", **arguments)
        self.read: dict[int, float] = {}

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        super()._run_early_stopping_check(trainer)
        self.read[trainer.current_epoch] = float(trainer.callback_metrics[self.monitor])


SETTINGS: dict[str, dict[str, Any]] = {
    "no validation": {},
    "validation": {"validate": True},
    "validation every second epoch": {"validate": True, "check_val_every_n_epoch": 2},
    "validation in mid-epoch": {"validate": True, "val_check_interval": 0.5},
}


@pytest.mark.parametrize("monitored", KEYS)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("first", [True, False], ids=["listed first", "listed last"])
def test_early_stopping_reads_this_epochs_value(monitored: str, setting: str, first: bool):
    fix = {} if setting in ("no validation", "validation") else {"check_on_train_epoch_end": True}
    reader = Reader(monitored, **fix)
    callbacks: list[Callback] = [reader, tiny_monitor()] if first else [tiny_monitor(), reader]
    logged = fitted(*callbacks, max_epochs=3, **SETTINGS[setting])
    assert [reader.read[epoch] for epoch in range(3)] == logged(monitored)


@pytest.mark.parametrize("setting", SETTINGS)
def test_model_checkpoint_names_this_epochs_value(tmp_path: Path, setting: str):
    fix = {} if setting in ("no validation", "validation") else {"save_on_train_epoch_end": True}
    name = "{epoch}-{gengap/predicted_gap:.6f}"
    checkpoint = ModelCheckpoint(
        tmp_path, name, "gengap/predicted_gap", save_top_k=-1, auto_insert_metric_name=False, **fix
    )
    arguments = {"enable_checkpointing": True, **SETTINGS[setting]}
    logged = fitted(checkpoint, tiny_monitor(), max_epochs=3, **arguments)
    expected = {f"{epoch}-{gap:.6f}" for epoch, gap in enumerate(logged("gengap/predicted_gap"))}
    assert {path.stem for path in tmp_path.glob("*.ckpt")} == expected


@pytest.mark.parametrize(
    ("reader", "argument"),
    [
        (EarlyStopping, "EarlyStopping(monitor={!r}, ..., check_on_train_epoch_end=True)"),
        (ModelCheckpoint, "ModelCheckpoint(monitor={!r}, ..., save_on_train_epoch_end=True)"),
    ],
)
def test_setup_says_how_to_read_the_value(tmp_path: Path, reader: Any, argument: str):
    fix = re.escape(argument.format("gengap/predicted_gap"))
    arguments = {"validate": True, "enable_checkpointing": reader is ModelCheckpoint, "default_root_dir": tmp_path}
    for interval in (0.5, 2):
        with pytest.raises(ConfigurationError, match=rf"val_check_interval={interval}: it looks before .* Use {fix}"):
            fitted(tiny_monitor(), reader(monitor=KEYS[1]), val_check_interval=interval, **arguments)
    with pytest.warns(UserWarning, match=rf"previous epoch's value.*\(check_val_every_n_epoch=2\). Use {fix}"):
        fitted(tiny_monitor(), reader(monitor=KEYS[1]), check_val_every_n_epoch=2, **arguments)


def test_early_stopping_that_would_never_look_is_named():
    with pytest.warns(UserWarning, match=r"would read no value in time.*check_on_train_epoch_end=True"):
        fitted(tiny_monitor(), EarlyStopping(KEYS[0]), check_val_every_n_epoch=2)


def test_a_checkpoint_by_steps_is_named(tmp_path: Path):
    stale = ModelCheckpoint(tmp_path, monitor=KEYS[1], every_n_train_steps=2)
    fix = r"looks during training.*every_n_epochs=1, save_on_train_epoch_end=True"
    with pytest.warns(UserWarning, match=fix):
        fitted(tiny_monitor(), stale, enable_checkpointing=True)


@pytest.mark.parametrize("key", ["gengap/predicted_gab", "gengap/margin/h1/median", "gengap/actual_gap"])
def test_a_key_that_is_never_logged_is_refused(key: str):
    with pytest.raises(ConfigurationError, match=rf"EarlyStopping on {key}: got a key that GapMonitor does not log"):
        fitted(tiny_monitor(), EarlyStopping(key))


def test_the_actual_gap_can_be_monitored_with_a_validation_every_epoch():
    reader = Reader("gengap/actual_gap")
    logged = fitted(tiny_monitor(), reader, validate=True)
    assert list(reader.read.values()) == logged("gengap/actual_gap")


def test_a_measured_key_can_be_monitored_where_it_is_logged():
    reader = Reader("gengap/margin/h1/median")
    logged = fitted(tiny_monitor(measures=["margin"]), reader)
    assert list(reader.read.values()) == logged("gengap/margin/h1/median")


def test_predictions_cannot_be_monitored_without_a_predictor():
    with pytest.raises(ConfigurationError, match=r"GapEarlyStopping on gengap/predicted_test_accuracy: got a key"):
        fitted(GapMonitor(predictor=None), GapEarlyStopping())
    with pytest.raises(ConfigurationError, match=r"got max_gap= with GapMonitor\(predictor=None\)"):
        fitted(GapMonitor(predictor=None), GapEarlyStopping("gengap/train_accuracy", max_gap=0.1))


def test_gap_early_stopping_needs_a_monitor():
    with pytest.raises(ConfigurationError, match=r"got a Trainer without GapMonitor.*callbacks=\[GapMonitor\(\)"):
        fitted(GapEarlyStopping())


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("first", [True, False], ids=["listed first", "listed last"])
def test_gap_early_stopping_stops_with_a_reason(setting: str, first: bool):
    stopping = GapEarlyStopping("gengap/train_loss", mode="min", patience=2, min_delta=10.0)
    callbacks: list[Callback] = [stopping, tiny_monitor()] if first else [tiny_monitor(), stopping]
    logged = fitted(*callbacks, max_epochs=6, **SETTINGS[setting])
    assert len(logged.rows) == 3  # the first value counts as best, two do not improve on it
    assert stopping.stopped_epoch == 2
    best = logged("gengap/train_loss")[0]
    assert stopping.reason == f"gengap/train_loss did not improve on {best:.3f} for 2 measurements"


def test_max_gap_stops_with_a_reason():
    stopping = GapEarlyStopping(max_gap=0.01)
    logged = fitted(stopping, tiny_monitor(), max_epochs=6)
    assert len(logged.rows) == 1
    assert stopping.stopped_epoch == 0
    assert stopping.reason == f"predicted gap {logged('gengap/predicted_gap')[0]:.3f} exceeds max_gap 0.01"
    generous = GapEarlyStopping(max_gap=0.9)
    assert len(fitted(generous, tiny_monitor()).rows) == 2
    assert generous.reason is None


def test_a_key_of_the_users_own_must_be_logged():
    with pytest.raises(RuntimeError, match="user_los"):
        fitted(tiny_monitor(), GapEarlyStopping("user_los"))


@pytest.mark.parametrize("max_gap", [0, -0.1, 1.5])
def test_max_gap_must_be_a_fraction(max_gap: float):
    with pytest.raises(ConfigurationError, match=r"max_gap: got .* expected an accuracy fraction"):
        GapEarlyStopping(max_gap=max_gap)


def test_gap_early_stopping_ignores_held_epochs():
    stopping = GapEarlyStopping("gengap/train_loss", mode="min", patience=1, min_delta=10.0)
    logged = fitted(tiny_monitor(every_n_epochs=3), stopping, max_epochs=9)
    assert logged("gengap/status") == [0, 1, 0]  # without this rule it would stop after the second


def test_gap_early_stopping_ignores_abstaining_epochs():
    stopping = GapEarlyStopping(patience=1, max_gap=0.01)
    logged = fitted(tiny_monitor(predictor=abstaining_predictor()), stopping, max_epochs=4)
    assert logged("gengap/status") == [3] * 4
    assert stopping.reason is None
    assert stopping.wait_count == 0


@pytest.mark.filterwarnings("ignore:GapMonitor could not measure")
def test_gap_early_stopping_ignores_failures(monkeypatch: pytest.MonkeyPatch):
    put_measure(monkeypatch, "margin", careless())
    stopping = GapEarlyStopping(patience=1, max_gap=0.01)
    logged = fitted(tiny_monitor(), stopping, max_epochs=5)
    assert logged("gengap/status") == [2, 2, 2, 4, 4]
    assert stopping.reason is None


@pytest.mark.filterwarnings("ignore:GapMonitor could not measure")
def test_gap_early_stopping_waits_for_a_measure_that_has_failed_so_far(monkeypatch: pytest.MonkeyPatch):
    put_measure(monkeypatch, "norm", careless())
    stopping = GapEarlyStopping("gengap/norm/log_product_spectral", mode="min", patience=1)
    logged = fitted(tiny_monitor(measures=["norm"], verbosity="full"), stopping, max_epochs=4)
    assert logged("gengap/status") == [0] * 4
    assert stopping.wait_count == 0


@pytest.mark.parametrize("validate", [False, True])
def test_a_plateau_scheduler_reads_this_epochs_value(validate: bool):
    class Scheduled(ValidatedModel if validate else TinyModel):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0)
            monitored = {"scheduler": self.scheduler, "monitor": "gengap/status", "interval": "epoch"}
            return {"optimizer": optimizer, "lr_scheduler": monitored}

    model = Scheduled()
    logged = fitted(tiny_monitor(every_n_epochs=2), model=model, max_epochs=4, validate=validate)
    assert logged("gengap/status") == [0, 0, 1, 0]
    assert model.scheduler.best == 1  # improved in the third epoch alone: the rate fell in the two others
    assert model.optimizers().param_groups[0]["lr"] == pytest.approx(0.02 * 0.1**2)
