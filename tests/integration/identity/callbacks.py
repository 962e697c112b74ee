"""Kinds of callbacks beside the monitor."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_avg_fn

from tests.integration.identity.loops import noisy
from tests.integration.identity.twins import CLASSES, FEATURES, Condition, Net


class Careful(Callback):
    """Draws at the start and end of every step and epoch."""

    def on_train_batch_start(self, trainer: Any, module: LightningModule, batch: Any, batch_idx: int) -> None:
        module.drawn = torch.rand(1)

    def on_train_epoch_end(self, trainer: Any, module: LightningModule) -> None:
        module.log("drawn", module.drawn + random.random() + float(np.random.rand()))


class Remembers(Callback):
    """Keeps activations by a forward hook, and logs what it has kept."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def on_train_start(self, trainer: Any, module: LightningModule) -> None:
        module.net[0].register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.kept.append(output.detach().mean())

    def on_train_epoch_end(self, trainer: Any, module: LightningModule) -> None:
        module.log("kept", torch.stack(self.kept).sum())


class Resets(Callback):
    """Draws new weights for the head after the first epoch."""

    def on_train_epoch_end(self, trainer: Any, module: LightningModule) -> None:
        module.net[-1].reset_parameters()


class Pruning(Callback):
    def on_train_epoch_start(self, trainer: Any, module: LightningModule) -> None:
        nn.utils.prune.random_unstructured(module.net[0], "weight", 0.2)


class Split(Net):
    """With a backbone, for callbacks that thaw it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.net = nn.Sequential(nn.Linear(FEATURES, 6), nn.BatchNorm1d(6)), nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(torch.relu(self.backbone(inputs)))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(filter(lambda weight: weight.requires_grad, self.parameters()), 0.1)


class Ema(WeightAveraging):
    def __init__(self) -> None:
        super().__init__(avg_fn=get_ema_avg_fn(0.9))


CALLBACKS: dict[str, Condition] = {
    "stochastic weight averaging": noisy(
        callbacks=lambda: [StochasticWeightAveraging(0.05, swa_epoch_start=1)], trainer={"max_epochs": 3}
    ),
    "moving average of the weights": noisy(callbacks=lambda: [Ema()]),
    "accumulation by schedule": noisy(callbacks=lambda: [GradientAccumulationScheduler({0: 1, 1: 2})]),
    "early stopping": noisy(callbacks=lambda: [EarlyStopping("loss_epoch", patience=1)]),
    "backbone thawed": Condition(
        Split, callbacks=lambda: [BackboneFinetuning(1, train_bn=True, backbone_initial_lr=0.01, verbose=False)]
    ),
    "callback that draws": noisy(callbacks=lambda: [Careful()]),
    "callback that resets": noisy(callbacks=lambda: [Resets()]),
    "callback with a forward hook": noisy(callbacks=lambda: [Remembers()]),
    "callback that prunes": Condition(callbacks=lambda: [Pruning()]),
}
