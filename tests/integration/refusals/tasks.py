"""Tasks, outputs and arguments that cannot be watched, or only in part, and failures of the user's own code."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, one_hot
from torch.utils.data import DataLoader, TensorDataset, default_collate

from tests.integration.refusals.case import Case
from tests.lightning_models import CLASSES, Stepping, TinyModel, blobs, careless, loader, put_measure
from tests.tiny_predictors import abstaining_predictor


class Around(TinyModel):
    """A forward that is given, of a network that is given."""

    def __init__(self, run: Callable[[Any, Tensor], Any], net: nn.Module) -> None:
        super().__init__()
        self.run, self.body, self.frozen, self.head = run, net, nn.Identity(), nn.Identity()

    def forward(self, images: Tensor) -> Any:
        return self.run(self.body, images.flatten(1))


def one_layer() -> nn.Module:
    return nn.Linear(36, CLASSES)


def three_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def around(
    run: Callable[[Any, Tensor], Any], net: Callable[[], nn.Module] = one_layer, verbosity: str = "normal"
) -> Case:
    """A training of this network under a forward."""
    return Case(lambda: Around(run, net()), {"verbosity": verbosity})


class Evaluated(TinyModel):
    """Its outputs in eval mode pass through a function of them and the step; those of training do not."""

    def __init__(self, change: Callable[[Tensor, int], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return logits if self.training else self.change(logits, self.trainer.global_step)


def evaluated(change: Callable[[Tensor, int], Any]) -> Case:
    return Case(lambda: Evaluated(change))


class Counting(TinyModel):
    """An endless count that each forward moves on, in no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.source: Any = itertools.count()

    def forward(self, images: Tensor) -> Tensor:
        next(self.source)
        return super().forward(images)


def fail(error: Exception) -> Any:
    raise error


def no_memory() -> Any:
    return fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))


class Crowded(TinyModel):
    """More than 16 samples do not fit."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch if len(batch[0]) <= 16 else no_memory()


def unlabelled(model: TinyModel, batch: Any) -> Tensor:
    """A loss of the inputs alone."""
    part = batch["a"] if isinstance(batch, dict) else batch
    return model(part[0]).square().mean()


def labelled(change: Callable[[Tensor], Tensor]) -> Case:
    """The blobs with other labels, which the loss leaves alone."""
    images, targets = blobs().tensors
    return Case(lambda: Stepping(unlabelled), data=lambda: DataLoader(TensorDataset(images, change(targets)), 16))


def stepping(step: Callable[[Any, Any], Tensor], **monitor: Any) -> Case:
    return Case(lambda: Stepping(step), monitor)


def squared(model: Any, batch: Any) -> Tensor:
    return cross_entropy(model(batch[0].square()), batch[1])


def noisy(model: Any, batch: Any) -> Tensor:
    return cross_entropy(model(batch[0] + 0.3 * torch.randn_like(batch[0])), batch[1])


def measuring(name: str, function: Callable[[Any], Any], **more: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """Put this function in the place of the measure."""
    return lambda monkeypatch: put_measure(monkeypatch, name, function, **more)


class Doubled(torch.autograd.Function):
    """Without the rules of forward-mode derivatives."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * logits

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * gradient


class Own(torch.optim.Adam):
    """Steps in a way of its own, for all that is known."""


class Decayed(TinyModel):
    def configure_optimizers(self) -> Any:
        return Own(self.parameters(), self.learning_rate, weight_decay=0.1)


class Pointed(LightningModule):
    """Has no forward: its step calls a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), three_layers())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Writing(TinyModel):
    """Its forward in eval mode writes to a parameter, the same values."""

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            with torch.no_grad():
                self.head.weight.mul_(1.0)
        return super().forward(images)


def copying_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gengap.undisturbed.snapshot.MOST_COPIED", 0)


class Listed(TinyModel):
    """Holds what Python cannot copy."""

    def __init__(self) -> None:
        super().__init__()
        self.source = (number for number in range(3))


def listed(samples: Any) -> Any:
    images, targets = default_collate(samples)
    return images, targets.tolist()


TASKS: dict[str, Case] = {
    "regression targets": labelled(lambda labels: labels + 0.5),
    "one-hot labels": labelled(lambda labels: one_hot(labels, CLASSES).float()),
    "one-hot labels that are whole numbers": labelled(lambda labels: one_hot(labels, CLASSES)),
    "a label for every pixel": labelled(lambda labels: labels[:, None, None].expand(-1, 6, 6).contiguous()),
    "labels in a list": Case(lambda: Stepping(unlabelled), data=lambda: loader(collate_fn=listed)),
    "several labels per example": labelled(lambda labels: (labels[:, None] >= torch.arange(CLASSES)).float()),
    "classes that do not begin at 0": labelled(lambda labels: labels + 1),
    "a single class": labelled(torch.zeros_like),
    "a batch without labels": Case(
        lambda: Stepping(unlabelled), data=lambda: DataLoader(TensorDataset(blobs().tensors[0]), 16)
    ),
    "several loaders": Case(lambda: Stepping(unlabelled), data=lambda: {"a": loader(), "b": loader()}),
    "probabilities": evaluated(lambda logits, _: logits.softmax(1)),
    "one logit": evaluated(lambda logits, _: logits[:, :1]),
    "several outputs": evaluated(lambda logits, _: (logits, logits)),
    "outputs that are not finite at the start": evaluated(lambda logits, _: logits * torch.nan),
    "outputs that are not finite later": evaluated(lambda logits, step: logits * torch.nan if step else logits),
    "outputs that are random": evaluated(lambda logits, _: logits + torch.randn_like(logits)),
    "samples that interact": evaluated(lambda logits, _: logits - logits.mean(0)),
    "outputs of another shape": evaluated(lambda logits, _: logits[..., None]),
    "a module without a forward": Case(Pointed),
    "a forward that fails": evaluated(lambda logits, _: fail(RuntimeError("broken here"))),
    "a forward that does not fit into memory": evaluated(lambda logits, _: no_memory()),
    "samples that do not fit into memory": Case(Crowded),
    "a module that is called otherwise": stepping(squared),
    "a step that changes hidden values": stepping(
        lambda model, batch: cross_entropy(
            model.head(torch.relu(model.frozen(model.body(batch[0]))).square()), batch[1]
        )
    ),
    "augmentation in the step": stepping(noisy),
    "augmentation in the step, with forward= given": stepping(noisy, forward=lambda module, batch: module(batch[0])),
    "a state that cannot be put back": Case(Counting),
    "a model that cannot be copied": Case(Listed),
    "a write that cannot be undone": Case(Writing, patch=copying_nothing),
    "an unknown layer": Case(monitor={"layers": ["neck"]}),
    "a layer with the samples on another axis": Case(
        lambda: Around(lambda body, images: body[1](body[0](images.T).T), nn.Sequential(nn.Tanh(), one_layer())),
        {"layers": ["body.0"]},
    ),
    "a network with few layers": around(lambda body, images: body(images), three_layers),
    "a network of functional layers": around(lambda body, images: linear(images, body.weight, body.bias)),
    "a forward that detaches its inputs": around(lambda body, images: body(images.detach() * 1)),
    "a feature that is undefined": around(lambda body, images: body(images), verbosity="quiet"),
    "a measurement that fails": Case(patch=measuring("difficulty", careless())),
    "a measure of the task that fails": Case(patch=measuring("difficulty", careless(), per_training=True)),
    "an optional measure that fails": Case(monitor={"measures": ["norm"]}, patch=measuring("norm", careless())),
    "a network that learns too little": Case(lambda: TinyModel(0.0)),
    "a network that stays far from all others": Case(monitor={"predictor": abstaining_predictor()}),
    "a measure that is never paid for": Case(
        monitor={"measures": ["norm"], "budget": 0.05}, patch=measuring("norm", lambda probe: {}, forwards=1e15)
    ),
    "a measure that takes a slower way": Case(
        lambda: Around(lambda body, images: Doubled.apply(body(images)), three_layers()), {"measures": ["tic"]}
    ),
    "a weight decay that is not known": Case(Decayed, {"measures": ["tic"]}),
}
