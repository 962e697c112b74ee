"""Expensive measures in training: rarer than the prediction, which they never make stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_gengap.measures import MEASURES
from lightning_gengap.monitor.gap_monitor import monitors_of
from lightning_gengap.monitor.logged_keys import AGES
from lightning_gengap.monitor.schedule import EXPENSIVE, Schedule
from tests.integration.test_bit_identity import assert_identical
from tests.lightning_models import (
    Counting,
    EpochValues,
    careless,
    fitted,
    put_measure,
    resumed,
    saved,
    watched,
)
from tests.tiny_predictors import tiny_monitor

WORST, TIC = "gengap/worst_case/alpha", "gengap/curvature/tic"


class LongSteps(Callback):
    """Lets every step count as long as the test says, so that the budget does not depend on this machine."""

    def __init__(self, seconds: float = 1e4) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *others: Any) -> None:
        for monitor in monitors_of(trainer):
            monitor._state.budget.train(self.seconds)


@pytest.fixture(autouse=True)
def cheap_in_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    put_measure(monkeypatch, "worst_case", Counting(WORST), 100.0)
    put_measure(monkeypatch, "tic", Counting(TIC), 100.0)


def scripted(monkeypatch: pytest.MonkeyPatch, *plans: tuple[str, ...]) -> None:
    """Make the schedule choose these in the epochs to come."""
    ahead = iter(plans)
    monkeypatch.setattr(Schedule, "others", lambda self, budget, riders, usual, last: next(ahead))


def series(values: EpochValues, key: str) -> list[float | None]:
    return [row.get(key) for row in values.rows]


def test_an_expensive_measure_is_no_part_of_the_first_measurement():
    monitor = tiny_monitor(budget=0.05, measures=["worst_case", "path_norm"])
    values = fitted(monitor, LongSteps(), max_epochs=4)
    assert values("gengap/status") == [0] * 4
    assert series(values, WORST) == [None, 1, 2, 3]
    assert series(values, "gengap/age/worst_case") == [None, 0, 0, 0]
    assert None not in series(values, "gengap/path_norm/log")


def test_one_that_is_too_expensive_does_not_make_the_prediction_stale(monkeypatch: pytest.MonkeyPatch):
    put_measure(monkeypatch, "worst_case", Counting(WORST), 1e15)
    monitor = tiny_monitor(budget=0.05, measures=["worst_case", "tic"])
    values, said = watched(monitor, LongSteps(), max_epochs=5)
    assert values("gengap/status") == [0] * 5
    assert len(set(values("gengap/predicted_gap"))) == 5
    assert series(values, WORST) == [None] * 5
    assert series(values, TIC) == [None, 1, 2, 3, 4]
    (message,) = said
    assert "GapMonitor never measured worst_case: 5 % of the time of this training did not pay for it." in message


def test_a_monitor_that_is_switched_off_does_not_say_that_nothing_was_paid_for():
    monitor = tiny_monitor(budget=0.05, measures=["tic"], forward=lambda module, batch: batch[1].float())
    values, said = watched(monitor, LongSteps(), max_epochs=4)
    assert values("gengap/status") == [4] * 4
    (message,) = said
    assert "is switched off" in message


def test_keys_hold_their_last_value_and_say_how_old_it_is(monkeypatch: pytest.MonkeyPatch):
    scripted(monkeypatch, ("worst_case",), ("tic",), (), ("worst_case", "tic"))
    monitor = tiny_monitor(budget=1.0, measures=["worst_case", "tic"])
    values = fitted(monitor, LongSteps(), max_epochs=5)
    assert series(values, WORST) == [None, 1, 1, 1, 2]
    assert series(values, TIC) == [None, None, 1, 1, 2]
    assert series(values, "gengap/age/worst_case") == [None, 0, 1, 2, 0]
    assert series(values, "gengap/age/tic") == [None, None, 0, 1, 0]
    assert len(set(values("gengap/predicted_gap"))) == 5
    assert monitor.values["worst_case/alpha"] == 2
    assert "age/tic" not in monitor.values


def test_the_age_grows_also_where_nothing_is_measured():
    values = fitted(tiny_monitor(every_n_epochs=3, measures=["tic"]), max_epochs=6)
    assert values("gengap/status") == [0, 1, 0, 1, 1, 0]
    assert series(values, "gengap/age/tic") == [0, 1, 0, 1, 2, 0]


def test_without_budget_everything_is_taken_at_every_measurement():
    values = fitted(tiny_monitor(measures=["worst_case", "tic"]), max_epochs=3)
    assert series(values, WORST) == series(values, TIC) == [1, 2, 3]


def test_the_last_epoch_takes_what_the_rest_of_the_budget_pays_for(monkeypatch: pytest.MonkeyPatch):
    asked: list[bool] = []
    monkeypatch.setattr(Schedule, "others", lambda self, budget, riders, usual, last: asked.append(last) or ())
    for arguments in ({"max_epochs": 3}, {"max_epochs": 9, "max_steps": 10}):
        asked.clear()
        with pytest.warns(UserWarning, match="never measured tic"):
            fitted(tiny_monitor(budget=1.0, measures=["tic"]), LongSteps(), **arguments)
        assert asked == [False, True]  # in the first no cost is known


def test_an_expensive_measure_that_fails_is_said_and_tried_no_more(monkeypatch: pytest.MonkeyPatch):
    fails = Counting(WORST, lambda call: True, torch.cuda.OutOfMemoryError("CUDA out of memory"))
    put_measure(monkeypatch, "worst_case", fails, 100.0)
    values, said = watched(tiny_monitor(budget=0.05, measures=["worst_case", "tic"]), LongSteps(), max_epochs=7)
    assert values("gengap/status") == [0] * 7
    assert series(values, TIC)[-1] == 6
    assert fails.calls == 3
    (message,) = said
    assert "could not measure worst_case in epoch 1: measure 'worst_case': got " in message


def test_a_checkpoint_keeps_what_was_taken_and_what_it_cost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    scripted(monkeypatch, ("worst_case",), (), ("tic",))
    first, second = (tiny_monitor(budget=1.0, measures=["worst_case", "tic"]) for _ in range(2))
    with pytest.warns(UserWarning, match="never measured tic"):
        path = saved(tmp_path, first, LongSteps(), epochs=3)
    values = resumed(path, second, LongSteps(), epochs=4)
    assert series(values, WORST) == series(values, TIC) == [1]
    assert series(values, "gengap/age/worst_case") == [2]
    before, after = first.state_dict()["schedule"], second.state_dict()["schedule"]
    assert before["taken"] == {"worst_case": 1}
    assert after["taken"] == {"worst_case": 1, "tic": 3}
    assert after["spent"]["worst_case"] == before["spent"]["worst_case"] > 0


def test_held_values_survive_a_resume_into_a_held_epoch(tmp_path: Path):
    arguments: dict[str, Any] = {"every_n_epochs": 2, "measures": ["tic"]}
    path = saved(tmp_path, tiny_monitor(**arguments), epochs=2)
    values = resumed(path, tiny_monitor(**arguments), epochs=4)
    assert values("gengap/status") == [1, 0]
    assert series(values, TIC) == [2, 3]
    assert series(values, "gengap/age/tic") == [1, 0]


def test_a_reader_of_a_key_that_is_always_there_is_accepted(tmp_path: Path):
    reader = ModelCheckpoint(tmp_path, monitor=TIC, mode="max", save_on_train_epoch_end=True)
    fitted(tiny_monitor(measures=["tic"]), reader, enable_checkpointing=True)
    assert float(reader.best_model_score) == 2


def test_a_measure_is_taken_in_every_epoch_in_which_somebody_reads_its_key():
    reader = EarlyStopping(TIC, mode="max", patience=1)
    values, said = watched(tiny_monitor(budget=0.05, measures=["tic", "worst_case"]), reader, max_epochs=4)
    assert series(values, TIC) == [1, 2, 3, 4]
    assert series(values, WORST) == [None] * 4
    assert "GapMonitor never measured worst_case: " in said[0]


def test_every_expensive_measure_has_an_age():
    expensive = {name for name, entry in MEASURES.items() if entry.forwards > EXPENSIVE and not entry.per_training}
    assert {f"age/{name}" for name in expensive} <= set(AGES)


def test_training_is_bit_identical_with_expensive_measures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()  # the real ones
    monitor = tiny_monitor(budget=0.05, measures=["soft_rank", "gradient_noise", "sharpness"], verbosity="full")
    assert_identical(monitor, LongSteps(), max_epochs=4, accumulate_grad_batches=3)
    assert set(monitor.state_dict()["schedule"]["taken"]) >= {"soft_rank", "gradient_noise", "sharpness"}


@pytest.mark.filterwarnings("ignore:GapMonitor could not measure")
def test_training_is_bit_identical_when_an_expensive_measure_fails(monkeypatch: pytest.MonkeyPatch):
    put_measure(monkeypatch, "worst_case", careless(torch.cuda.OutOfMemoryError("CUDA out of memory")), 100.0)
    monitor = tiny_monitor(budget=0.05, measures=["worst_case", "tic"])
    assert_identical(monitor, LongSteps(), max_epochs=5, accumulate_grad_batches=3)
    assert list(monitor.state_dict()["schedule"]["taken"]) == ["tic"]
