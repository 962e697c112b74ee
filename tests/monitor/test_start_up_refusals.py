"""Tasks and data that cannot be watched are one warning and an unchanged training, unless failures are errors."""

from __future__ import annotations

import copy
import math
import re
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
from tests.lightning_models import Iterated, Stepping, TinyModel, blobs, fitted, loader, watched
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


def unwatched(model: TinyModel, data: Any, **arguments: Any) -> str:
    """What is said where the monitor is switched off at the start; training ends where it ends without."""
    alone = copy.deepcopy(model)
    values, said = watched(tiny_monitor(**arguments), model=model, data=data)
    fitted(model=alone, data=data)
    weights, others = model.state_dict(), alone.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert values("gengap/status") == [4, 4]
    assert all(math.isfinite(value) for row in values.rows for value in row.values())
    (message,) = said
    return message


@each_access
@pytest.mark.parametrize("kind", REFUSED)
def test_an_unsupported_task_is_said_once_and_training_is_unchanged(kind: str, given: Callable[[Any], Any]):
    spoil, change, error, message = REFUSED[kind]
    data = DataLoader(relabelled(change), batch_size=16)
    said = unwatched(Spoiled(spoil, ignored_loss), given(data))
    assert re.match(rf"GapMonitor is switched off: {error.__name__}: .*{message}.* Training goes on unchanged", said)
    with pytest.raises(error, match=message):
        fitted(tiny_monitor(on_error="raise"), model=Spoiled(spoil, ignored_loss), data=given(data))


def unlabelled(self: TinyModel, batch: Any) -> Tensor:
    return self(batch[0] if isinstance(batch, list) else batch["a"][0]).square().mean()


@pytest.mark.parametrize(
    ("data", "arguments", "error", "message"),
    [
        (DataLoader(TensorDataset(torch.zeros(40, 1, 6, 6)), 16), {}, BatchError, "got a list of 1 items; expected"),
        ({"a": loader(), "b": loader()}, {}, BatchError, r"got a mapping with keys \['a', 'b'\]"),
        (loader(), {"layers": ["body", "neck"]}, LayerError, "layer h2: got 'neck'; expected a module .*body"),
        (loader(), {"probe_data": []}, DataError, "got no batch; expected at least one labelled sample"),
    ],
    ids=["unlabelled", "two loaders", "unknown layer", "no probe data"],
)
def test_what_cannot_be_read_is_said_once_and_training_is_unchanged(
    data: Any, arguments: dict[str, Any], error: type[GapError], message: str
):
    assert re.search(f"{error.__name__}: .*{message}", unwatched(Stepping(unlabelled), data, **arguments))
    with pytest.raises(error, match=message):
        fitted(tiny_monitor(on_error="raise", **arguments), model=Stepping(unlabelled), data=data)


class TwoArguments(TinyModel):
    def forward(self, images: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self(*batch), batch[1])


@each_access
def test_a_module_that_cannot_be_called_is_said_once_with_the_way_out(given: Callable[[Any], Any]):
    said = unwatched(TwoArguments(), given(loader()))
    assert re.search(r"model forward: got TypeError: .*'targets'.* Pass forward=lambda module", said)
    monitor = tiny_monitor(forward=lambda module, batch: module(*batch))
    assert fitted(monitor, model=TwoArguments(), data=given(loader()))("gengap/status") == [0, 0]
