"""Measurements by optimizer steps: at the right step, for checkpoints that look there, and after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_gengap import GapEarlyStopping, GapMonitor
from lightning_gengap.measures import MEASURED
from tests.integration.scripted_gaps import scripted_monitor
from tests.integration.test_bit_identity import assert_identical
from tests.lightning_models import ManualModel, MemoryLogger, TinyModel, blobs, fitted, resumed, saved, stream
from tests.streams import Stream
from tests.tiny_predictors import tiny_monitor

GAP, STATUS = "gengap/predicted_gap", "gengap/status"

STEPS: dict[str, tuple[dict[str, Any], int, list[int]]] = {
    # arguments, every so many steps, where loggers have the values
    "every": ({}, 1, [0, 1, 2, 3, 4, 5, 6, 7]),
    "third": ({}, 3, [2, 5, 7]),  # the last weights are measured too
    "end of epochs": ({}, 4, [3, 7]),
    "accumulated": ({"accumulate_grad_batches": 2}, 1, [0, 1, 2, 3]),
    "accumulated, second": ({"accumulate_grad_batches": 2}, 2, [1, 3]),
    "manual, two optimizers": ({"model": ManualModel}, 4, [1, 3, 5, 7]),  # which count two steps a batch
}


@pytest.mark.parametrize("case", STEPS)
def test_values_are_logged_at_the_steps_that_are_due(case: str):
    arguments, every, steps = STEPS[case]
    logger = MemoryLogger()
    model = arguments.get("model", TinyModel)()
    values = fitted(tiny_monitor(every_n_train_steps=every), logger=logger, **(arguments | {"model": model}))
    series = logger.series(GAP)
    assert [step for step, _ in series] == steps
    assert len({value for _, value in series}) == len(steps)
    assert values(STATUS)[-1] == 0


def test_a_step_wise_checkpoint_reads_the_value_of_its_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    keeper = ModelCheckpoint(tmp_path, "{step}", GAP, mode="min", every_n_train_steps=2, auto_insert_metric_name=False)
    monitor = scripted_monitor(monkeypatch, [0.4, 0.1, 0.3, 0.2], every_n_train_steps=2)
    fitted(keeper, monitor, enable_checkpointing=True)
    assert [path.stem for path in tmp_path.glob("*.ckpt")] == ["4"]
    assert float(keeper.best_model_score) == pytest.approx(0.1)


@pytest.mark.filterwarnings("ignore:ModelCheckpoint on gengap.* looks during training")
def test_whoever_looks_between_measurements_finds_nothing_that_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class Look(Callback):
        def on_train_batch_end(self, trainer: Trainer, *others: Any) -> None:
            seen.append((float(trainer.callback_metrics[GAP]), float(trainer.callback_metrics[STATUS])))

    seen: list[tuple[float, float]] = []
    keeper = ModelCheckpoint(tmp_path, monitor=GAP, mode="min", every_n_train_steps=1)
    monitor = scripted_monitor(monkeypatch, [0.4, 0.1, 0.3, 0.2], every_n_train_steps=2)
    fitted(monitor, Look(), keeper, enable_checkpointing=True)
    assert [status for _, status in seen] == [3, 0, 1, 0, 1, 0, 1, 0]
    assert [gap for gap, _ in seen[2::2]] == [1.0] * 3
    assert float(keeper.best_model_score) == pytest.approx(0.1)


def test_it_goes_on_after_a_resume(tmp_path: Path):
    path = saved(tmp_path, tiny_monitor(every_n_train_steps=3), epochs=2)
    logger = MemoryLogger()
    resumed(path, tiny_monitor(every_n_train_steps=3), epochs=4, logger=logger)
    assert [step for step, _ in logger.series(GAP)] == [8, 11, 14, 15]


def test_a_validation_at_the_same_step_is_compared():
    logger = MemoryLogger()
    fitted(tiny_monitor(every_n_train_steps=2), validate=True, val_check_interval=0.5, logger=logger)
    assert [step for step, _ in logger.series("gengap/actual_gap")] == [1, 3, 5, 7]
    logger = MemoryLogger()
    fitted(tiny_monitor(every_n_train_steps=3), validate=True, logger=logger, max_epochs=3)
    assert [step for step, _ in logger.series("gengap/actual_gap")] == [11]


def test_gap_early_stopping_has_a_value_at_the_end_of_every_epoch():
    stopping = GapEarlyStopping("gengap/train_loss", mode="min", patience=2, min_delta=10.0)
    values = fitted(tiny_monitor(every_n_train_steps=3), stopping, max_epochs=6)
    assert values(STATUS) == [0, 0, 0]


def test_training_is_bit_identical():
    assert_identical(tiny_monitor(every_n_train_steps=2, verbosity="full"), accumulate_grad_batches=2)


class Unseen(ManualModel):
    """Steps optimizers that Lightning does not count."""

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        return super().optimizers(use_pl_optimizer=False)


def test_epochs_are_measured_also_where_lightning_sees_no_optimizer_step():
    values = fitted(tiny_monitor(), model=Unseen(), max_epochs=3)
    assert values.trainer.global_step == 0
    assert values(STATUS) == [0, 0, 0]
    assert len(set(values("gengap/train_loss"))) == 3


def test_a_stream_is_measured_once_enough_of_it_is_copied() -> None:
    logger = MemoryLogger()
    fitted(tiny_monitor(every_n_train_steps=1, samples=40), data=stream(), max_epochs=1, logger=logger)
    series = logger.series("gengap/train_accuracy")
    assert [step for step, _ in series] == [2, 3]  # three batches of 16
    assert all(48 * accuracy == pytest.approx(round(48 * accuracy), abs=1e-4) for _, accuracy in series)


@pytest.mark.filterwarnings("ignore:GapMonitor. each of difficulty")
def test_a_stream_that_is_read_in_mid_epoch_is_measured_on_what_is_copied_so_far() -> None:
    """Batches of 64; so 256 samples are there at the second of the validations, and all 512 at the fourth."""
    seen: list[tuple[bool, float | None]] = []
    monitors = [tiny_monitor(samples=512, measures=["difficulty"]) for _ in range(2)]

    class Reader(EarlyStopping):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen.append((monitors[0].is_fresh(self.monitor), monitors[0].values.get("probe_samples")))
            super().on_validation_end(trainer, pl_module)

    def train(monitor: GapMonitor, *others: Callback) -> None:
        data = DataLoader(Stream(blobs(640)), batch_size=64)
        fitted(monitor, *others, data=data, max_epochs=1, validate=True, val_check_interval=2)

    train(monitors[0], Reader("gengap/train_loss", check_on_train_epoch_end=False, patience=9))
    train(monitors[1])
    assert seen == [(False, None), (True, 256), (True, 256), (True, 512), (True, 512)]
    read, unread = ({key: value for key, value in monitor.values.items() if key in MEASURED} for monitor in monitors)
    assert read["difficulty/ridge_accuracy"] == unread["difficulty/ridge_accuracy"]  # of 512 samples, not of 256
    assert read == unread
