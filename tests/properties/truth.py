"""What the values of a training are, by brute force: the network in eval mode on one drawn sample after the other."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.lightning_models import MemoryLogger
from tests.properties.batches import FORMS, Samples, loader_of
from tests.properties.trainings import Training


def as_trained(content: Any, dtype: torch.dtype) -> Any:
    """A private copy of the tensors, in the precision that Lightning gives them."""
    if isinstance(content, Tensor):
        return content.to(dtype, copy=True) if content.is_floating_point() else content.clone()
    if isinstance(content, dict):
        return {key: as_trained(value, dtype) for key, value in content.items()}
    return tuple(as_trained(part, dtype) for part in content)


@dataclass(frozen=True)
class Truth:
    """Train accuracy and loss of some weights.

    Attributes:
        low: the accuracy if all logits that are equal to rounding are taken for wrong.
        high: the accuracy if they are taken for right.
    """

    low: float
    high: float
    loss: float

    @classmethod
    def of(cls, module: LightningModule, chosen: Training, drawn: list[int]) -> Truth:
        model: Any = copy.deepcopy(module).eval()
        loader = loader_of(chosen.parts, chosen.form, "in order", 1, False)
        data, logits, targets = Samples(chosen.parts), [], []
        for index in drawn:
            arguments, target = FORMS[chosen.form].take(loader.collate_fn([data[index]]))
            with torch.no_grad():
                logits.append(model(*as_trained(arguments, model.dtype))[0].double())
            targets.append(target[0])
        rows, labels = torch.stack(logits), torch.stack(targets)
        own = rows.gather(1, labels[:, None])[:, 0]
        gaps = own - rows.scatter(1, labels[:, None], -torch.inf).amax(1)
        rounding = 1e-4 * (1 + rows.abs().amax())
        low, high = (float((gaps > side * rounding).double().mean()) for side in (1, -1))
        return cls(low, high, float(cross_entropy(rows, labels)))

    def has(self, row: dict[str, float], prefix: str = "gengap/") -> bool:
        """Whether accuracy and loss among these values are of these weights."""
        accuracy, loss = row[f"{prefix}train_accuracy"], row[f"{prefix}train_loss"]
        return self.low - 1e-6 <= accuracy <= self.high + 1e-6 and math.isclose(
            loss, self.loss, rel_tol=1e-3, abs_tol=1e-4
        )


@dataclass
class Seen:
    """One row that a logger got, or callbacks found; a number that changes with the weights, and the truth then."""

    weights: int
    row: dict[str, float]
    truth: Truth
    validation: float | None


@dataclass
class Witness:
    """Looks at the weights whenever values are shown, with the samples that the monitor should have."""

    chosen: Training
    module: LightningModule | None = None
    trainer: Trainer | None = None
    logged: list[Seen] = field(default_factory=list)
    found: list[Seen] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)

    def see(self, row: dict[str, float]) -> Seen:
        assert self.trainer is not None
        assert self.module is not None
        validation = self.trainer.callback_metrics.get("val_acc")
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
        copied = batches * self.chosen.batch_size if self.chosen.order == "stream" else len(self.drawn)
        return Seen(
            batches if self.chosen.manual else self.trainer.global_step,
            {key: float(value) for key, value in row.items()},
            Truth.of(self.module, self.chosen, self.drawn[:copied]),
            None if validation is None else float(validation),
        )


class WitnessLogger(MemoryLogger):
    """Lets the witness look at what the monitor logs."""

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self.witness = witness

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        if any(key.startswith("gengap/") for key in metrics):
            self.witness.logged.append(self.witness.see(metrics))


class WitnessCallback(Callback):
    """Lets the witness look at what callbacks find after each epoch."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.witness.trainer, self.witness.module = trainer, pl_module

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.witness.found.append(self.witness.see(trainer.callback_metrics))
