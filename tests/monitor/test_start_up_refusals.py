"""What GapMonitor refuses before the first step: tasks and data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapError
from lightning_gengap.errors import (
    BatchError,
    DataError,
    LayerError,
    LogitsError,
    TargetError,
)
from tests.lightning_models import Iterated, TinyModel, blobs, loader, quiet_trainer
from tests.tiny_predictors import tiny_monitor

each_access = pytest.mark.parametrize("given", [lambda data: data, Iterated], ids=["indexed", "stream"])


class Spoiled(TinyModel):
    """Its outputs pass through a function."""

    def __init__(self, spoil: Callable[[Tensor], Any], loss: Callable[..., Tensor] = cross_entropy) -> None:
        super().__init__()
        self.spoil, self.loss = spoil, loss

    def forward(self, images: Tensor) -> Any:
        return self.spoil(super().forward(images))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(super().forward(batch[0]), batch[1])


def relabelled(change: Callable[[Tensor], Tensor]) -> TensorDataset:
    images, targets = blobs().tensors
    return TensorDataset(images, change(targets))


def ignored_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.square().mean()


def same(logits: Tensor) -> Tensor:
    return logits


REFUSED: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor], type[GapError], str]] = {
    "regression": (same, lambda y: y.float(), TargetError, "a regression target or soft labels.*watches classifiers"),
    "regression of many": (same, lambda y: torch.randn(64, 3), TargetError, "a regression target or soft labels"),
    "probabilities": (lambda z: z.softmax(1), same, LogitsError, "which look like probabilities; expected logits"),
    "one logit": (lambda z: z[:, :1], same, LogitsError, "expected float logits of shape .* with two classes or more"),
    "feature maps": (lambda z: z[:, :, None], same, LogitsError, "expected float logits of shape"),
    "pair": (lambda z: (z, z), same, LogitsError, "got tuple; expected a tensor of logits.*Pass forward="),
    "label too large": (same, lambda y: y + 1, TargetError, "got class indices from 1 to 4 for 4 logits"),
}


@each_access
@pytest.mark.parametrize("kind", REFUSED)
def test_an_unsupported_task_is_refused_before_the_first_step(kind: str, given: Callable[[Any], Any]):
    spoil, change, error, message = REFUSED[kind]
    model = Spoiled(spoil, ignored_loss)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = DataLoader(relabelled(change), batch_size=16)
    trainer = quiet_trainer(tiny_monitor())
    with pytest.raises(error, match=message):
        trainer.fit(model, given(data))
    assert trainer.global_step == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("data", "arguments", "error", "message"),
    [
        (DataLoader(TensorDataset(torch.zeros(40, 1, 6, 6)), 16), {}, BatchError, "got a list of 1 items; expected"),
        ({"a": loader(), "b": loader()}, {}, BatchError, r"got a mapping with keys \['a', 'b'\]"),
        (loader(), {"layers": ["body", "neck"]}, LayerError, "layer h2: got 'neck'; expected a module .*body"),
        (loader(), {"layers": ["a", "b", "c", "d"]}, LayerError, "expected one to three module names"),
        (loader(), {"probe_data": []}, DataError, "got no batch; expected at least one labelled sample"),
    ],
    ids=["unlabelled", "two loaders", "unknown layer", "four layers", "no probe data"],
)
def test_what_cannot_be_read_is_refused_before_the_first_step(
    data: Any, arguments: dict[str, Any], error: type[GapError], message: str
):
    trainer = quiet_trainer(tiny_monitor(**arguments))
    with pytest.raises(error, match=message):
        trainer.fit(TinyModel(), data)
    assert trainer.global_step == 0


@each_access
def test_a_module_that_cannot_be_called_is_refused_before_the_first_step(given: Callable[[Any], Any]):
    class TwoArguments(TinyModel):
        def forward(self, images: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(images)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return cross_entropy(self(*batch), batch[1])

    trainer = quiet_trainer(tiny_monitor())
    with pytest.raises(LogitsError, match=r"model forward: got TypeError: .*'targets'.* Pass forward=lambda module"):
        trainer.fit(TwoArguments(), given(loader()))
    assert trainer.global_step == 0
    trainer = quiet_trainer(tiny_monitor(forward=lambda module, batch: module(*batch)))
    trainer.fit(TwoArguments(), given(loader()))
    assert trainer.global_step == 8
