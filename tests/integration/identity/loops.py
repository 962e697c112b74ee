"""Kinds of training loops, data, optimizers, callbacks and hooks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from tests.integration.identity.layers import around
from tests.integration.identity.twins import (
    BATCH,
    CLASSES,
    EXAMPLES,
    FEATURES,
    Condition,
    Net,
    loader,
    perceptron,
    vectors,
)
from tests.lightning_models import Iterated
from tests.streams import Stream
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


# Transfer hooks.


class NormsTransferred(Net):
    def prepare(self) -> None:
        self.scale = nn.BatchNorm1d(FEATURES, affine=False)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.scale(batch[0]).detach(), batch[1]


class CountsTransfers(Net):
    def prepare(self) -> None:
        self.register_buffer("seen", torch.zeros(1))
        self.log_of, self.own = [], torch.Generator().manual_seed(0)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.log_of.append(len(batch[0]))
        return batch

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        self.seen += 1
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        noise = torch.randn(batch[0].shape, generator=self.own).to(batch[0].device)
        return batch[0] + 0.1 * noise, batch[1]


class CountingData(LightningDataModule):
    """A data module whose transfer hook counts and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.transfers, self.own = [0], np.random.default_rng(0)

    def train_dataloader(self) -> Any:
        return loader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.transfers[0] += 1
        return batch[0] + 0.1 * float(self.own.random()) + 0.01 * self.transfers[0], batch[1]


# Data.


class Augmented(Dataset[Any]):
    """Noise from all global streams at each read."""

    def __init__(self) -> None:
        self.inputs, self.targets = vectors().tensors

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> Any:
        noise = torch.randn(1) + float(np.random.rand()) + random.random()
        return self.inputs[index] + 0.1 * noise, self.targets[index]


class Mapped(Dataset[Any]):
    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> Any:
        inputs, targets = vectors()[index]
        return {"x": inputs, "y": targets}


class Mapping(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step((batch["x"], batch["y"]), batch_idx)


class OwnBatches(BatchSampler):
    """Batches of random sizes."""

    def __init__(self) -> None:
        self.sampler, self.batch_size, self.drop_last = range(EXAMPLES), 4, False

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(EXAMPLES).tolist()
        while order:
            size = random.randint(4, 8)
            yield order[:size]
            order = order[size:]

    def __len__(self) -> int:
        return 4


def noisy_collate(samples: Any) -> Any:
    inputs, targets = default_collate(samples)
    return inputs + 0.1 * torch.randn(1), targets


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


# Callbacks.


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


class Bare(Net):
    """Without logging."""

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return {"loss": cross_entropy(self(batch[0]), batch[1]), "extra": torch.rand(1)}


def noisy(**arguments: Any) -> Condition:
    return Condition(Noisy, **arguments)


def on(data: Callable[[], Any], model: Callable[[], LightningModule] = Noisy, **arguments: Any) -> Condition:
    return Condition(model, data, **arguments)


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
    "batch norm on transfer": Condition(NormsTransferred),
    "counts on transfer": Condition(CountsTransfers),
    "data module that counts on transfer": Condition(data=CountingData),
    "not shuffled": on(lambda: loader(shuffle=False)),
    "own generator of the loader": on(lambda: loader(generator=generator())),
    "last batch dropped": on(lambda: loader(batch_size=7, drop_last=True)),
    "own batches": on(lambda: DataLoader(vectors(), batch_sampler=OwnBatches())),
    "weighted": on(lambda: loader(shuffle=False, sampler=WeightedRandomSampler([1.0, 2.0] * 12, EXAMPLES))),
    "with replacement": on(
        lambda: loader(shuffle=False, sampler=RandomSampler(vectors(), replacement=True, generator=generator()))
    ),
    "some of the indices": on(lambda: loader(shuffle=False, sampler=SubsetRandomSampler(range(20)))),
    "subset": on(lambda: loader(Subset(vectors(), range(22)))),
    "concatenated": on(lambda: loader(ConcatDataset([vectors(), vectors()]))),
    "noise in collation": on(lambda: loader(collate_fn=noisy_collate)),
    "augmented": on(lambda: loader(Augmented())),
    "mappings": on(lambda: loader(Mapped()), Mapping),
    "stream": on(lambda: DataLoader(Stream(vectors(), lambda n: torch.randperm(n).tolist()), batch_size=BATCH)),
    "list of batches": on(lambda: Iterated(list(loader(shuffle=False)))),
    "worker": on(lambda: loader(num_workers=1)),
    "augmented in workers that persist": on(lambda: loader(Augmented(), num_workers=2, persistent_workers=True)),
    "every measure": noisy(monitor={"verbosity": "full"}),
    "probe data": on(lambda: loader(Augmented()), monitor={"probe_data": vectors()}),
    "named layers": Condition(lambda: Net(perceptron()), monitor={"layers": ["net.0", "net.1"]}),
    "other forward and target": Condition(
        monitor={"forward": lambda module, batch: module(batch[0]), "target": lambda batch: batch[1]}
    ),
    "every second epoch": noisy(monitor={"every_n_epochs": 2}, trainer={"max_epochs": 3}),
    "a share of the time": noisy(monitor={"budget": 1.0}),
    "another predictor": noisy(monitor={"predictor": tiny_predictor(name="other_v1")}),
}
