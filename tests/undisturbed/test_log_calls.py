"""Whatever a forward logs while it is measured, and by whatever way, reaches neither the Trainer nor a logger."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from lightning_gengap.undisturbed import undisturbed
from tests.lightning_models import MemoryLogger, TinyModel, loader, quiet_trainer


class Child(nn.Module):
    def __init__(self, log: Callable[..., Any]) -> None:
        super().__init__()
        self.log = log

    def forward(self, inputs: Tensor) -> Tensor:
        self.log("child", inputs.mean(), on_step=True, on_epoch=True)
        return inputs


class Talkative(TinyModel):
    """Logs in its forward in every way that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.child = Child(self.log)
        self.say = functools.partial(LightningModule.log_dict, self, on_step=False, on_epoch=True)

    def forward(self, images: Tensor) -> Tensor:
        self.child(images)
        self.say({"said": images.mean()})
        self.log("own", images.mean())
        logger: Any = self.logger
        if logger is not None:
            logger.log_metrics({"direct": float(images.mean())}, step=0)
            logger.experiment.add_histogram("images", images)
            assert (logger.name, logger.version) == ("memory", "0")
        return super().forward(images)


class Measures(Callback):
    """Runs guarded forwards on other images at every moment at which the monitor may measure."""

    def run(self, trainer: Trainer, module: LightningModule, *others: Any) -> None:
        with undisturbed(module):
            for _ in range(3):
                module(torch.full((5, 1, 6, 6), 100.0))

    on_train_start = on_before_backward = on_train_batch_end = on_validation_start = on_train_epoch_end = run


@pytest.mark.filterwarnings("ignore:You called `self.log")
def test_only_what_training_logs_is_logged() -> None:
    outcomes = []
    for callbacks in ([], [Measures()]):
        torch.manual_seed(0)
        logger = MemoryLogger()
        trainer = quiet_trainer(*callbacks, logger=logger)
        trainer.fit(Talkative(), loader())
        loggers: list[Logger] = trainer.loggers
        assert loggers == [logger]
        outcomes.append((logger.rows, {key: float(value) for key, value in trainer.callback_metrics.items()}))
    assert outcomes[0] == outcomes[1]
    assert {"child_step", "child_epoch", "said", "own", "direct"} <= {key for _, row in outcomes[0][0] for key in row}
