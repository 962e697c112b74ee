"""Kinds of steps, optimizers, and arguments of the Trainer and the monitor."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.integration.identity.layers import around
from tests.integration.identity.twins import (
    Condition,
    Net,
    perceptron,
)
from tests.tiny_predictors import tiny_predictor


class Noisy(Net):
    """Batch norm and dropout, and a step that draws from all global streams."""

    def __init__(self) -> None:
        super().__init__(around(nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.3))))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        noise = 0.1 * torch.randn(1) + 0.1 * float(np.random.rand()) + 0.1 * random.random()
        return super().training_step((batch[0] + noise.to(batch[0].device), batch[1]), batch_idx)


# Optimizers and schedulers.


def optimised(optimizer: Callable[[Any], Any], scheduler: Callable[[Any], Any] | None = None) -> Callable[[], Net]:
    class Optimised(Noisy):
        def configure_optimizers(self) -> Any:
            chosen = optimizer(self.parameters())
            return chosen if scheduler is None else {"optimizer": chosen, "lr_scheduler": scheduler(chosen)}

    return Optimised


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, 0.1)


def every_step(scheduler: Any) -> dict[str, Any]:
    return {"scheduler": scheduler, "interval": "step"}


class Manual(Noisy):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, 0.5, "norm")
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        first, *_, last = self.net.children()
        return torch.optim.Adam(first.parameters(), 0.05), torch.optim.SGD(last.parameters(), 0.1)


class OwnSteps(Noisy):
    """Hooks of the step, overridden."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step(closure=optimizer_closure)
        for group in optimizer.param_groups:
            group["lr"] *= 0.9

    def configure_gradient_clipping(self, optimizer: Any, *others: Any, **more: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=random.uniform(0.1, 0.2), gradient_clip_algorithm="value")

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.zeroed = getattr(self, "zeroed", 0) + 1


class Smoothed(Noisy):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1], label_smoothing=0.1) + 0.01 * self.net[0].weight.square().sum()


class Mixing(Noisy):
    """Mixup in the step, from the global streams."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        share, order = float(np.random.beta(1, 1)), torch.randperm(len(batch[0]))
        logits = self(share * batch[0] + (1 - share) * batch[0][order])
        return share * cross_entropy(logits, batch[1]) + (1 - share) * cross_entropy(logits, batch[1][order])


class FreezesInEval(Noisy):
    """Keeps its batch norm in eval mode, whatever `train` is told."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.net[1].eval()
        return self


class SkipsSteps(Noisy):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return None if batch_idx == 1 else super().training_step(batch, batch_idx)


class SavesMore(Noisy):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mine"] = torch.rand(2)


class Bare(Net):
    """Without logging."""

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return {"loss": cross_entropy(self(batch[0]), batch[1]), "extra": torch.rand(1)}


def noisy(**arguments: Any) -> Condition:
    return Condition(Noisy, **arguments)


LOOPS: dict[str, Condition] = {
    "Adam": Condition(optimised(torch.optim.Adam)),
    "AdamW, AMSGrad": Condition(optimised(lambda weights: torch.optim.AdamW(weights, amsgrad=True))),
    "Nesterov": Condition(optimised(lambda weights: torch.optim.SGD(weights, 0.1, momentum=0.9, nesterov=True))),
    "RMSprop": Condition(optimised(torch.optim.RMSprop)),
    "RAdam": Condition(optimised(torch.optim.RAdam)),
    "averaged SGD": Condition(optimised(torch.optim.ASGD)),
    "LBFGS": Condition(optimised(lambda weights: torch.optim.LBFGS(weights, max_iter=2))),
    "steps of the rate": Condition(optimised(sgd, lambda chosen: torch.optim.lr_scheduler.StepLR(chosen, 1, 0.5))),
    "one cycle": Condition(
        optimised(sgd, lambda optimizer: every_step(torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6)))
    ),
    "cosine": Condition(
        optimised(sgd, lambda optimizer: every_step(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)))
    ),
    "on a plateau": Condition(
        optimised(
            sgd,
            lambda optimizer: {
                "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
                "monitor": "loss",
            },
        )
    ),
    "two optimizers by hand": Condition(Manual),
    "own optimizer steps": Condition(OwnSteps),
    "smoothed labels, penalty": Condition(Smoothed),
    "mixed inputs": Condition(Mixing),
    "frozen batch norm": Condition(FreezesInEval),
    "steps without a loss": Condition(SkipsSteps),
    "more in the checkpoint": Condition(SavesMore),
    "no logging, a dictionary": Condition(Bare),
    "accumulated": noisy(trainer={"accumulate_grad_batches": 2}),
    "clipped norm": noisy(trainer={"gradient_clip_val": 0.1}),
    "clipped values": noisy(trainer={"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}),
    "bfloat16, mixed": noisy(trainer={"precision": "bf16-mixed"}),
    "bfloat16": Condition(trainer={"precision": "bf16-true"}),
    "float64": Condition(trainer={"precision": "64-true"}),
    "anomalies": noisy(trainer={"detect_anomaly": True}),
    "deterministic": noisy(trainer={"deterministic": True}),
    "end in mid-epoch": noisy(trainer={"max_steps": 4}),
    "few batches": noisy(trainer={"limit_train_batches": 2}),
    "overfitting": noisy(trainer={"overfit_batches": 2}),
    "loaders made anew": noisy(trainer={"reload_dataloaders_every_n_epochs": 1}),
    "validation": noisy(validated=True),
    "validation in mid-epoch": noisy(validated=True, trainer={"val_check_interval": 1}),
    "validation with gradients": noisy(validated=True, trainer={"inference_mode": False}),
    "validation every second epoch": noisy(validated=True, trainer={"check_val_every_n_epoch": 2}),
    "sanity check": noisy(validated=True, trainer={"num_sanity_val_steps": 1}),
    "every measure": noisy(monitor={"verbosity": "full"}),
    "named layers": Condition(lambda: Net(perceptron()), monitor={"layers": ["net.0", "net.1"]}),
    "other forward and target": Condition(
        monitor={"forward": lambda module, batch: module(batch[0]), "target": lambda batch: batch[1]}
    ),
    "every second epoch": noisy(monitor={"every_n_epochs": 2}, trainer={"max_epochs": 3}),
    "a share of the time": noisy(monitor={"budget": 1.0}),
    "another predictor": noisy(monitor={"predictor": tiny_predictor(name="other_v1")}),
}
