"""One training with the monitor and its plain twin, and where they differ in anything that they leave behind."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap.undisturbed.lasting_changes import digests
from tests.lightning_models import MemoryLogger, quiet_trainer
from tests.outcomes import Classifier, different, seed_streams, streams, users
from tests.tiny_predictors import tiny_monitor

EXAMPLES, FEATURES, CLASSES, BATCH = 24, 8, 4, 8

Outcome = dict[str, Any]


def vectors() -> TensorDataset:
    """Labelled vectors around one mean per class."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(EXAMPLES) % CLASSES
    means = torch.randn(CLASSES, FEATURES, generator=generator)
    return TensorDataset(means[targets] + torch.randn(EXAMPLES, FEATURES, generator=generator), targets)


def loader(dataset: Any = None, **arguments: Any) -> DataLoader[Any]:
    """Shuffled batches."""
    return DataLoader(vectors() if dataset is None else dataset, **({"batch_size": BATCH, "shuffle": True} | arguments))


def perceptron() -> nn.Sequential:
    """Two layers."""
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.ReLU(), nn.Linear(6, CLASSES))


class Net(Classifier):
    """A network in training, with a state that its forwards change."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__(perceptron() if net is None else net)
        self.prepare()

    def prepare(self) -> None:
        """Make the state that `touch` changes."""

    def touch(self, inputs: Tensor) -> Tensor | None:
        """Change the state in each forward; what it gives is added to the logits."""
        return None

    def forward(self, inputs: Tensor) -> Tensor:
        extra = self.touch(inputs)
        logits = self.net(inputs)
        return logits if extra is None else logits + extra.to(logits.device)


@dataclass
class Condition:
    """What differs from the plainest training.

    Attributes:
        model: makes the module.
        data: makes what `fit` trains on: a loader, or a data module.
        validated: whether there is a validation.
        callbacks: other callbacks than the monitor.
        trainer: arguments of the Trainer.
        monitor: arguments of the monitor.
    """

    model: Callable[[], LightningModule] = Net
    data: Callable[[], Any] = loader
    validated: bool = False
    callbacks: Callable[[], list[Callback]] = list
    trainer: dict[str, Any] = field(default_factory=dict)
    monitor: dict[str, Any] = field(default_factory=dict)


def trained(condition: Condition, *monitors: Callback) -> Outcome:
    """Everything that the training leaves behind."""
    seed_streams()
    module, logger = condition.model(), MemoryLogger()
    trainer = quiet_trainer(*monitors, *condition.callbacks(), logger=logger, **condition.trainer)
    held_out = loader(shuffle=False) if condition.validated else None
    trainer.fit(module, condition.data(), held_out)
    return {
        "module": digests(module),
        "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "streams": streams(),
        "steps": trainer.global_step,
        "logged": [(step, users(row)) for step, row in logger.rows if set(users(row)) - {"epoch"}],
        "metrics": users(trainer.callback_metrics),
        "checkpoint": trainer._checkpoint_connector.dump_checkpoint(weights_only=False),
        "settings": [torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()],
    }


def differences(condition: Condition) -> tuple[list[str], bool, list[str]]:
    """Paths of whatever is not the same to the last bit; whether all was measured; what failed, in words."""
    plain = trained(condition)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor = tiny_monitor(samples=EXAMPLES, **condition.monitor)
        statuses = Statuses()
        watched = trained(condition, monitor, statuses)
    failed = [str(each.message) for each in caught if re.search("GapMonitor (cannot|could not)", str(each.message))]
    return different(plain, watched), statuses.are_fresh, failed


class Statuses(Callback):
    """The statuses that the monitor logged: 0 is a prediction, 1 an epoch left out, 3 and 5 are abstentions."""

    def __init__(self) -> None:
        self.logged: list[int] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: LightningModule) -> None:
        self.logged.append(int(trainer.callback_metrics["gengap/status"]))

    @property
    def are_fresh(self) -> bool:
        return bool(self.logged) and set(self.logged) <= {0, 1, 3, 5}
