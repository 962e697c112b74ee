"""Whoever monitors a gengap key reads this epoch's value, or is told before training how to."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_gengap import GapEarlyStopping, GapMonitor
from lightning_gengap.errors import ConfigurationError
from lightning_gengap.predictors.predictor import LossHead
from tests.lightning_models import MemoryLogger, TinyModel, ValidatedModel, blobs, careless, fitted, put_measure
from tests.tiny_predictors import abstaining_predictor, hopeless_predictor, tiny_monitor, tiny_predictor, wide_feature

LOSS_GAP = "gengap/predicted_loss_gap"
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


LATE = ("validation every second epoch", "validation in mid-epoch")  # Lightning looks after validation there


@pytest.mark.parametrize("monitored", KEYS)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("at_epoch_end", [True, None], ids=["at epoch end", "by default"])
@pytest.mark.parametrize("first", [True, False], ids=["listed first", "listed last"])
def test_early_stopping_reads_a_value_of_now(monitored: str, setting: str, at_epoch_end: bool | None, first: bool):
    reader = Reader(monitored, check_on_train_epoch_end=at_epoch_end)
    monitor = tiny_monitor(every_n_epochs=3, budget=0.05)  # it is measured because it is read
    callbacks: list[Callback] = [reader, monitor] if first else [monitor, reader]
    logged = fitted(*callbacks, max_epochs=3, **SETTINGS[setting])
    epochs = [1] if setting == LATE[0] and not at_epoch_end else [0, 1, 2]
    assert reader.read == {epoch: logged(monitored)[epoch] for epoch in epochs}
    assert all(logged("gengap/status")[epoch] == 0 for epoch in epochs)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("at_epoch_end", [True, None], ids=["at epoch end", "by default"])
def test_model_checkpoint_names_a_value_of_now(tmp_path: Path, setting: str, at_epoch_end: bool | None):
    name = "{epoch}-{step}-{gengap/predicted_gap:.6f}"
    checkpoint = ModelCheckpoint(
        tmp_path,
        name,
        "gengap/predicted_gap",
        save_top_k=-1,
        auto_insert_metric_name=False,
        save_on_train_epoch_end=at_epoch_end,
    )
    logger = MemoryLogger()
    fitted(checkpoint, tiny_monitor(), max_epochs=3, logger=logger, enable_checkpointing=True, **SETTINGS[setting])
    steps = {LATE[0]: (4,), LATE[1]: (2, 4)}.get(setting, (4,)) if not at_epoch_end else (4,)
    epochs = [1] if setting == LATE[0] and not at_epoch_end else [0, 1, 2]
    fresh = dict(logger.series("gengap/predicted_gap"))
    expected = {f"{e}-{4 * e + step}-{fresh[4 * e + step - 1]:.6f}" for e in epochs for step in steps}
    assert {path.stem for path in tmp_path.glob("*.ckpt")} == expected


@pytest.mark.parametrize(
    ("reader", "argument"), [(EarlyStopping, "check_on_train_epoch_end"), (ModelCheckpoint, "save_on_train_epoch_end")]
)
def test_who_would_never_look_is_named(tmp_path: Path, reader: Any, argument: str):
    arguments = {"enable_checkpointing": reader is ModelCheckpoint, "default_root_dir": tmp_path}
    fix = re.escape(f"Use {reader.__name__}(monitor={KEYS[0]!r}, ..., {argument}=True).")
    with pytest.warns(UserWarning, match=f"looks after validation, and there is none. {fix}"):
        fitted(tiny_monitor(), reader(monitor=KEYS[0]), check_val_every_n_epoch=2, **arguments)


BY_STEP = {
    "steps": ({"every_n_train_steps": 2}, {}, r"Use .*every_n_epochs=1, .*, or GapMonitor\(every_n_train_steps=2\)."),
    "other steps": ({"every_n_train_steps": 2}, {"every_n_train_steps": 3}, r"Use .*every_n_train_steps=3\) or a mult"),
    "time": ({"train_time_interval": timedelta(seconds=9)}, {}, r"every_n_epochs=1, save_on_train_epoch_end=True\).$"),
}


@pytest.mark.parametrize("kind", BY_STEP)
def test_a_checkpoint_that_looks_between_measurements_is_named(tmp_path: Path, kind: str):
    arguments, own, fix = BY_STEP[kind]
    checkpoint = ModelCheckpoint(tmp_path, monitor=KEYS[1], **arguments)
    with pytest.warns(UserWarning, match=rf"ModelCheckpoint on {KEYS[1]} looks during training.*{fix}"):
        fitted(tiny_monitor(**own), checkpoint, enable_checkpointing=True)


def test_the_actual_gap_can_be_monitored_with_a_validation_every_epoch():
    reader = Reader("gengap/actual_gap")
    logged = fitted(tiny_monitor(), reader, validate=True)
    assert list(reader.read.values()) == logged("gengap/actual_gap")


def test_a_measured_key_can_be_monitored_where_it_is_logged():
    reader = Reader("gengap/margin/h1/median")
    logged = fitted(tiny_monitor(measures=["margin"]), reader)
    assert list(reader.read.values()) == logged("gengap/margin/h1/median")


def only_measuring() -> GapMonitor:
    return GapMonitor(predictor=None)


REFUSED: list[tuple[Callable[[], list[Callback]], str]] = [
    *(
        (
            lambda key=key: [tiny_monitor(), EarlyStopping(key)],
            f"EarlyStopping on {key}: got a key that GapMonitor does",
        )
        for key in ("gengap/predicted_gab", "gengap/norm/log_product_spectral", "gengap/actual_gap")
    ),
    (lambda: [only_measuring(), GapEarlyStopping()], "GapEarlyStopping on gengap/estimated_test_accuracy: got a key"),
    (
        lambda: [only_measuring(), GapEarlyStopping("gengap/train_accuracy", max_gap=0.1)],
        r"got max_gap= with GapMonitor\(predictor=None\)",
    ),
    (lambda: [GapEarlyStopping()], r"got a Trainer without GapMonitor.*callbacks=\[GapMonitor\(\)"),
    (lambda: [tiny_monitor(), GapEarlyStopping(LOSS_GAP, mode="min")], "does not log with these arguments"),
    (
        lambda: [tiny_monitor(), GapEarlyStopping("gengap/actual_gap", mode="min")],
        "actual_gap needs a validation",
    ),
    *(
        (lambda gap=gap: [GapEarlyStopping(max_gap=gap)], r"max_gap=\): got .* expected an accuracy fraction")
        for gap in (0, -0.1, 1.5, float("nan"), "0.2")
    ),
]


@pytest.mark.parametrize(("callbacks", "message"), REFUSED)
def test_what_can_never_be_read_is_refused(callbacks: Callable[[], list[Callback]], message: str):
    with pytest.raises(ConfigurationError, match=message):
        fitted(*callbacks())


def test_the_loss_gap_can_be_monitored_where_there_is_a_loss_head():
    head = LossHead(intercept=-1.0, features=(wide_feature("train_loss", "log", -0.5),), below=-1.0, above=1.0)
    stopping = GapEarlyStopping(LOSS_GAP, mode="min")
    values = fitted(tiny_monitor(predictor=tiny_predictor(loss_head=head)), stopping)
    assert float(stopping.best_score) == pytest.approx(min(values(LOSS_GAP)))


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
    assert stopping.reason == f"estimated gap {logged('gengap/estimated_gap')[0]:.3f} exceeds max_gap 0.01"
    generous = GapEarlyStopping(max_gap=0.9)
    assert len(fitted(generous, tiny_monitor()).rows) == 2
    assert generous.reason is None


def test_a_key_of_the_users_own_must_be_logged():
    with pytest.raises(RuntimeError, match="user_los"):
        fitted(tiny_monitor(), GapEarlyStopping("user_los"))


NORM = "gengap/norm/log_product_spectral"
NEEDING_NORM = tiny_predictor(measures=("difficulty", "norm"))
IGNORED: dict[str, tuple[dict[str, Any], dict[str, Any], str | None, list[int]]] = {
    # arguments of the monitor and of the early stopping; the measure that fails; status by epoch
    "held": ({"every_n_epochs": 3}, {"monitor": "gengap/train_loss", "min_delta": 10.0}, None, [0, 1, 0]),
    "abstaining": ({"predictor": abstaining_predictor()}, {"mode": "max", "max_gap": 0.01}, None, [3] * 4),
    "hopeless": ({"predictor": hopeless_predictor()}, {"mode": "max", "max_gap": 0.01}, None, [5] * 4),
    "failed": ({"predictor": NEEDING_NORM}, {"mode": "max", "max_gap": 0.01}, "norm", [2, 2, 2, 4, 4]),
    "without the key": ({"measures": ["norm"], "verbosity": "full"}, {"monitor": NORM}, "norm", [0] * 4),
}


@pytest.mark.parametrize("kind", IGNORED)
@pytest.mark.filterwarnings("ignore:GapMonitor could not measure")
@pytest.mark.filterwarnings("ignore:GapMonitor. the prediction always abstains")
def test_gap_early_stopping_ignores_epochs_without_a_fresh_value(monkeypatch: pytest.MonkeyPatch, kind: str):
    monitor, stopping, failing, statuses = IGNORED[kind]
    if failing is not None:
        put_measure(monkeypatch, failing, careless())
    early = GapEarlyStopping(**({"mode": "min", "patience": 1} | stopping))
    logged = fitted(tiny_monitor(**monitor), early, max_epochs=9 if kind == "held" else len(statuses))
    assert logged("gengap/status") == statuses  # a stale value that counted would stop it after the second epoch
    if kind != "held":
        assert early.reason is None
        assert early.wait_count == 0


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


def test_it_goes_by_held_out_samples_where_the_prediction_abstains():
    monitor = tiny_monitor(predictor=abstaining_predictor(), held_out=blobs(40, seed=3))
    stopping = GapEarlyStopping(patience=2, min_delta=1.0)
    logged = fitted(monitor, stopping, max_epochs=6)
    assert logged("gengap/status") == [3.0] * 3
    assert len(logged.rows) == 3
    assert "estimated_test_accuracy did not improve" in str(stopping.reason)
    without = GapEarlyStopping(patience=2, min_delta=1.0)
    assert len(fitted(tiny_monitor(predictor=abstaining_predictor()), without, max_epochs=6).rows) == 6
    assert without.reason is None
