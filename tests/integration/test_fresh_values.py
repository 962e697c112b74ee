"""A value is of its epoch, or it is not drawn and wins nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_gengap import GapEarlyStopping
from tests.integration.scripted_gaps import ABSTAINS, FAILS, Prices, scripted_monitor
from tests.lightning_models import MemoryLogger, TinyModel, fitted, loader, watched
from tests.tiny_predictors import ALWAYS, hopeless_predictor, tiny_monitor

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor could not measure")
GAP, ACCURACY, STATUS = "gengap/predicted_gap", "gengap/predicted_test_accuracy", "gengap/status"
DEAR = 1.0  # seconds per sample: no epoch allows that

GAPS: dict[str, list[float | str]] = {
    "all fresh": [0.30, 0.20, 0.10, 0.15, 0.05, 0.25],
    "abstains first": [ABSTAINS, ABSTAINS, 0.30, 0.10, 0.20, 0.15],
    "abstains last": [0.30, 0.10, 0.20, 0.15, ABSTAINS, ABSTAINS],
    "fails now and then": [FAILS, 0.30, 0.20, FAILS, 0.10, 0.15],
}


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("top", [1, 3])
@pytest.mark.parametrize("kind", GAPS)
def test_lightnings_checkpoints_keep_the_best_fresh_epochs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, top: int, mode: str, validate: bool
):
    gaps, sign = GAPS[kind], 1 if mode == "min" else -1
    arguments: dict[str, Any] = {"auto_insert_metric_name": False, "save_top_k": top, "mode": mode}
    keeper = ModelCheckpoint(tmp_path, "{epoch}", GAP, save_on_train_epoch_end=True, **arguments)
    monitor = scripted_monitor(monkeypatch, gaps)
    fitted(keeper, monitor, max_epochs=6, enable_checkpointing=True, validate=validate)
    fresh = [epoch for epoch, gap in enumerate(gaps) if isinstance(gap, float)]
    best = sorted(fresh, key=lambda epoch: sign * float(gaps[epoch]))[:top]
    assert {int(path.stem) for path in tmp_path.glob("*.ckpt")} == set(best)


@pytest.mark.parametrize(
    ("gaps", "lines"), [([ABSTAINS] * 3, 1), ([ABSTAINS, 0.1, ABSTAINS], 0), ([0.1] * 3, 0)], ids=["none", "one", "all"]
)
def test_a_training_without_any_prediction_ends_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gaps: list[float | str], lines: int
):
    fitted(scripted_monitor(monkeypatch, gaps), max_epochs=3)
    assert sum("GapMonitor made no prediction: " in message for message in caplog.messages) == lines


@pytest.mark.parametrize("kind", GAPS)
def test_loggers_get_fresh_predictions_alone(monkeypatch: pytest.MonkeyPatch, kind: str):
    logger = MemoryLogger()
    fitted(scripted_monitor(monkeypatch, GAPS[kind]), max_epochs=6, logger=logger)
    expected = [(4 * epoch + 3, gap) for epoch, gap in enumerate(GAPS[kind]) if isinstance(gap, float)]
    assert logger.series(GAP) == [(step, pytest.approx(gap)) for step, gap in expected]
    measured = [4 * epoch + 3 for epoch, gap in enumerate(GAPS[kind]) if gap != FAILS]
    for key in ("gengap/train_accuracy", "gengap/train_loss"):
        assert [step for step, _ in logger.series(key)] == measured
    for key in (STATUS, "gengap/overhead"):
        assert [step for step, _ in logger.series(key)] == [3, 7, 11, 15, 19, 23]


def test_gap_early_stopping_loses_no_patience_and_lightnings_own_loses_some(monkeypatch: pytest.MonkeyPatch):
    gaps = [0.3, ABSTAINS, ABSTAINS, FAILS, 0.2, 0.1]
    for stopping, epochs in (
        (GapEarlyStopping(GAP, mode="min", patience=1), 6),
        (EarlyStopping(GAP, mode="min", patience=2), 3),
    ):
        assert len(fitted(scripted_monitor(monkeypatch, gaps), stopping, max_epochs=6).rows) == epochs


def test_callbacks_find_finite_values_from_before_the_first_step_on():
    class Look(Callback):
        def on_train_batch_start(self, trainer: Trainer, *others: Any) -> None:
            found.append({key: float(value) for key, value in trainer.callback_metrics.items()})

    found: list[dict[str, float]] = []
    fitted(tiny_monitor(), Look())
    assert all(row.keys() >= ALWAYS for row in found)
    assert all(math.isfinite(value) for row in found for value in row.values())
    assert (found[0][GAP], found[0][ACCURACY], found[0][STATUS]) == (found[0]["gengap/train_accuracy"], 0.0, 3.0)


def test_an_epoch_that_is_not_measured_draws_nothing_and_compares_nothing():
    logger, monitor = MemoryLogger(), tiny_monitor(every_n_epochs=3)
    values = fitted(monitor, validate=True, max_epochs=5, logger=logger)
    assert values(STATUS) == [0, 1, 0, 1, 0]
    for key in (GAP, "gengap/actual_gap", "gengap/estimated_gap", "gengap/train_accuracy"):
        assert [step for step, _ in logger.series(key)] == [3, 11, 19]
    fresh = [row for row, status in zip(values.rows, values(STATUS), strict=True) if status == 0]
    assert all(
        row["gengap/actual_gap"] == pytest.approx(row["gengap/train_accuracy"] - row["val_acc"]) for row in fresh
    )


def test_the_final_weights_are_measured_where_training_ends_early_in_a_held_epoch():
    logger = MemoryLogger()
    stopping = EarlyStopping("user_train_acc", mode="max", patience=1, min_delta=1.0, check_on_train_epoch_end=True)
    values = fitted(tiny_monitor(every_n_epochs=9), stopping, max_epochs=9, logger=logger)
    assert values(STATUS) == [0, 1]
    assert float(values.trainer.callback_metrics[STATUS]) == 0
    assert [(step, row["epoch"]) for step, row in logger.rows if GAP in row] == [(3, 0), (7, 1)]


def test_an_epoch_that_is_known_to_be_the_last_is_measured_with_it():
    class Stop(Callback):
        def on_train_batch_start(self, trainer: Trainer, *others: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 2

    assert fitted(tiny_monitor(every_n_epochs=9), Stop(), max_epochs=9)(STATUS) == [0, 1, 0]


def test_the_epoch_after_an_abstention_or_a_failure_is_measured(monkeypatch: pytest.MonkeyPatch):
    monitor = scripted_monitor(monkeypatch, [ABSTAINS, FAILS, 0.2, 0.1], every_n_epochs=9, budget=0.05)
    assert fitted(monitor, Prices(DEAR), max_epochs=6)(STATUS) == [3, 2, 0, 1, 1, 0]


@pytest.mark.filterwarnings("ignore:GapMonitor. the prediction always abstains")
def test_an_abstention_for_good_is_not_measured_again_and_again():
    monitor = tiny_monitor(predictor=hopeless_predictor(), budget=0.05)
    values = fitted(monitor, Prices(DEAR), max_epochs=4)
    assert values(STATUS) == [5] * 4
    assert len(set(values("gengap/train_loss"))) == 3  # measured in the first and in the last


def test_an_abstention_for_good_is_said_once_instead_of_what_is_absent():
    _, said = watched(tiny_monitor(predictor=hopeless_predictor()), max_epochs=3)
    assert len(said) == 1
    assert "the prediction always abstains, because it needs perturbation/mix_accuracy, which is absent" in said[0]


READERS: dict[str, tuple[Any, list[float]]] = {
    "early stopping": (lambda path: EarlyStopping(GAP, patience=9), [0] * 6),
    "checkpoint": (lambda path: ModelCheckpoint(path, monitor=GAP, every_n_epochs=2), [0, 0, 1, 0, 1, 0]),
    "ours": (lambda path: GapEarlyStopping(patience=9), [0, 1, 1, 1, 1, 0]),
    "of status": (lambda path: EarlyStopping(STATUS, patience=9), [0, 1, 1, 1, 1, 0]),
}


@pytest.mark.parametrize("kind", READERS)
def test_every_epoch_that_a_callback_reads_is_measured_whatever_it_costs(tmp_path: Path, kind: str):
    reader, statuses = READERS[kind]
    callbacks = (reader(tmp_path), tiny_monitor(budget=0.05, every_n_epochs=9), Prices(DEAR))
    assert fitted(*callbacks, max_epochs=6, enable_checkpointing=kind == "checkpoint")(STATUS) == statuses


def test_a_plateau_scheduler_has_its_epochs_measured():
    class Scheduled(TinyModel):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            config = {"scheduler": scheduler, "monitor": "gengap/train_loss", "frequency": 3}
            return {"optimizer": optimizer, "lr_scheduler": config}

    values = fitted(tiny_monitor(budget=0.05), Prices(DEAR), model=Scheduled(), max_epochs=7)
    assert values(STATUS) == [0, 1, 0, 1, 1, 0, 0]


def test_a_second_measurement_of_the_same_weights_is_not_taken(monkeypatch: pytest.MonkeyPatch):
    stopping = EarlyStopping(GAP, patience=9, check_on_train_epoch_end=False)  # looks after validation
    monitor = scripted_monitor(monkeypatch, [0.1, 0.2, 0.3])
    logger = MemoryLogger()
    values = fitted(monitor, stopping, validate=True, max_epochs=3, logger=logger)
    assert values(GAP) == [pytest.approx(gap) for gap in (0.1, 0.2, 0.3)]
    assert logger.series(GAP) == [(3, pytest.approx(0.1)), (7, pytest.approx(0.2)), (11, pytest.approx(0.3))]


def test_measuring_before_a_validation_leaves_the_module_as_lightning_has_it():
    class Modes(TinyModel):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            seen.append((self.training, torch.is_grad_enabled(), self.body.training))

    seen: list[tuple[bool, bool, bool]] = []
    reader = EarlyStopping(GAP, patience=9, check_on_train_epoch_end=False)
    values = fitted(tiny_monitor(), reader, model=Modes(), validate=True)
    assert values(STATUS) == [0, 0]
    assert set(seen) == {(False, False, False)}


def test_the_module_of_a_user_reads_our_keys_at_the_end_of_its_epoch():
    class Reads(TinyModel):
        def on_train_epoch_end(self) -> None:
            seen.append(float(self.trainer.callback_metrics[GAP]))

    seen: list[float] = []
    assert fitted(tiny_monitor(), model=Reads(), data=loader())(GAP) == seen
