"""One training with the monitor and its plain twin, and where they differ in anything that they leave behind."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap.undisturbed.lasting_changes import digests
from tests.lightning_models import MemoryLogger, quiet_trainer
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


class Net(LightningModule):
    """A network in training; it logs its loss."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = perceptron() if net is None else net
        self.prepare()

    def prepare(self) -> None:
        """Make the state that `touch` changes."""

    def touch(self, inputs: Tensor) -> Tensor | None:
        """Change the state in each forward; what it gives is added to the logits."""
        return None

    def forward(self, inputs: Tensor) -> Tensor:
        extra = self.touch(inputs)
        logits = self.net(inputs)
        return logits if extra is None else logits + extra

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


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
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    module, logger = condition.model(), MemoryLogger()
    trainer = quiet_trainer(*monitors, *condition.callbacks(), logger=logger, **condition.trainer)
    held_out = loader(shuffle=False) if condition.validated else None
    trainer.fit(module, condition.data(), held_out)
    return {
        "module": digests(module),
        "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "streams": [random.getstate(), np.random.get_state(), torch.get_rng_state()],
        "steps": trainer.global_step,
        "logged": [(step, users(row)) for step, row in logger.rows if set(users(row)) - {"epoch"}],
        "metrics": users(trainer.callback_metrics),
        "checkpoint": trainer._checkpoint_connector.dump_checkpoint(weights_only=False),
        "settings": [torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()],
    }


def users(row: Any) -> dict[str, Any]:
    """Keys of the user's own."""
    return {key: value for key, value in row.items() if not key.startswith("gengap")}


def leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested containers, with its path; but what the monitor and compilers keep for themselves."""
    if isinstance(content, dict):
        for key, value in content.items():
            if not re.search("^GapMonitor|_torchdynamo_wrapper_id", str(key)):
                yield from leaves(value, f"{name}.{key}")
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from leaves(value, f"{name}.{number}")
    else:
        yield name, content


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.layout != torch.strided:
            one, other = one.to_dense(), other.to_dense()
        if one.is_quantized:
            one, other = one.dequantize(), other.dequantize()
        return one.dtype == other.dtype and (one.is_meta or torch.equal(one.nan_to_num(7), other.nan_to_num(7)))
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    return type(one) is type(other) and (bool(one == other) or repr(one) == repr(other) or not _has_value(one))


def _has_value(thing: Any) -> bool:
    return not hasattr(thing, "__dict__")


def differences(condition: Condition) -> tuple[list[str], bool, list[str]]:
    """Paths of whatever is not the same to the last bit; whether all was measured; what failed, in words."""
    plain = trained(condition)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor = tiny_monitor(samples=EXAMPLES, **condition.monitor)
        statuses = Statuses()
        watched = trained(condition, monitor, statuses)
    first, second = dict(leaves(plain)), dict(leaves(watched))
    paths = sorted(first.keys() | second.keys())
    failed = [str(each.message) for each in caught if re.search("GapMonitor (cannot|could not)", str(each.message))]
    return [path for path in paths if not same(first.get(path), second.get(path))], statuses.are_fresh, failed


class Statuses(Callback):
    """The statuses that the monitor logged: 0 is a prediction, 1 an epoch left out, 3 and 5 are abstentions."""

    def __init__(self) -> None:
        self.logged: list[int] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: LightningModule) -> None:
        self.logged.append(int(trainer.callback_metrics["gengap/status"]))

    @property
    def are_fresh(self) -> bool:
        return bool(self.logged) and set(self.logged) <= {0, 1, 3, 5}
