from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.monitor.readers import check_readers
from lightning_gengap.monitor.trainer_facts import (
    check_strategy,
    planned_share,
)
from tests.lightning_models import quiet_trainer


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_sharded_strategies_are_refused(name: str):
    trainer: Any = SimpleNamespace(strategy=type(name, (), {})())
    with pytest.raises(ConfigurationError, match=rf"got Trainer\(strategy={name}\); expected a single device or DDP"):
        check_strategy(trainer)


@pytest.mark.parametrize("kind", [FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy])
def test_subclasses_of_lightnings_sharded_strategies_are_refused(kind: type[Strategy]):
    own = type("OwnStrategy", (kind,), {})
    trainer: Any = SimpleNamespace(strategy=own.__new__(own))
    with pytest.raises(ConfigurationError, match=r"got Trainer\(strategy=OwnStrategy\); expected a single device"):
        check_strategy(trainer)


@pytest.mark.parametrize("kind", [DDPStrategy, SingleDeviceStrategy])
def test_strategies_that_hold_all_weights_are_not_refused(kind: type[Strategy]):
    trainer: Any = SimpleNamespace(strategy=kind.__new__(kind))
    check_strategy(trainer)


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
