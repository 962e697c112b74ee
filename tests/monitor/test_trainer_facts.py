from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.monitor.readers import check_readers
from lightning_gengap.monitor.trainer_facts import (
    check_strategy,
    find_validation_accuracy,
    planned_share,
)
from tests.lightning_models import quiet_trainer


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_sharded_strategies_are_refused(name: str):
    trainer: Any = SimpleNamespace(strategy=type(name, (), {})())
    with pytest.raises(ConfigurationError, match=rf"got Trainer\(strategy={name}\); expected a single device or DDP"):
        check_strategy(trainer)


@pytest.mark.parametrize("key", ["val_acc", "val_accuracy", "valid/acc", "validation/accuracy", "valid_accuracy"])
def test_the_usual_name_is_found(key: str):
    metrics = {key: torch.tensor(0.75), "val_loss": 1.0, "train_acc": 0.9, "val_acc_top5": 0.99, "my_val_acc": 0.1}
    assert find_validation_accuracy(metrics, None) == (0.75, None)


def test_a_given_name_wins_over_the_usual_one():
    assert find_validation_accuracy({"val_acc": 0.5, "held_out": 0.6}, "held_out") == (0.6, None)


@pytest.mark.parametrize(
    ("metrics", "name", "reason"),
    [
        ({"loss": 1.0}, None, "0 logged metrics match a key like val_acc or val/accuracy."),
        ({"val_acc": 0.5}, "other", "0 logged metrics match 'other'."),
        ({"val_acc": 0.5, "val/acc": 0.6}, None, "2 logged metrics match a key like .* (val_acc, val/acc)."),
    ],
)
def test_none_or_several_give_a_notice(metrics: dict[str, float], name: str | None, reason: str):
    value, notice = find_validation_accuracy(metrics, name)
    assert value is None
    assert notice.startswith("gengap/actual_gap is absent: ")
    assert notice.endswith("Pass GapMonitor(validation_accuracy='<the key you log>').")
    for part in reason.split(".*"):
        assert part.strip() in notice


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_not_used(value: float):
    found, notice = find_validation_accuracy({"val_acc": torch.tensor(value)}, None)
    assert found is None
    assert notice == f"gengap/actual_gap is absent: the logged val_acc is {value}."


@pytest.mark.parametrize(
    ("arguments", "steps", "epochs", "share"),
    [
        ({"max_epochs": 4}, 10, 1, 0.25),
        ({"max_epochs": -1, "max_steps": 40}, 10, 1, 0.25),
        ({"max_epochs": 4, "max_steps": 20}, 10, 1, 0.5),
        ({"max_epochs": 2, "max_steps": 1000}, 10, 2, 1.0),
        ({"max_epochs": 1}, 10, 3, 1.0),
        ({"max_epochs": -1}, 10, 3, None),
    ],
)
def test_the_planned_share_follows_whichever_ends_first(
    arguments: dict[str, int], steps: int, epochs: int, share: float | None
):
    trainer = quiet_trainer(**arguments)
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = steps
    assert trainer.global_step == steps
    assert planned_share(trainer, epochs) == share


def test_readers_of_other_keys_are_left_alone():
    trainer = quiet_trainer(ModelCheckpoint(monitor="val_loss"), enable_checkpointing=True, val_check_interval=0.5)
    check_readers(trainer, lambda key: False)
