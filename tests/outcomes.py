"""What two trainings leave behind, value by value, and a plain classifier for them. It needs no pytest."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Classifier(LightningModule):
    """A network in training; it logs its loss and a validation accuracy."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def seed_streams() -> None:
    """Let every training draw the same."""
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)


def streams() -> list[Any]:
    """Where the global random streams stand."""
    of_device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return [random.getstate(), np.random.get_state(), torch.get_rng_state(), of_device]


def users(row: Any) -> dict[str, Any]:
    """Keys of the user's own."""
    return {key: value for key, value in row.items() if not key.startswith("gengap")}


def different(one: Any, other: Any) -> list[str]:
    """Paths of whatever is not the same to the last bit in two nests of values."""
    first, second = dict(_leaves(one)), dict(_leaves(other))
    return [path for path in sorted(first.keys() | second.keys()) if not _same(first.get(path), second.get(path))]


def _leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested containers, with its path; but what the monitor and compilers keep for themselves."""
    if isinstance(content, dict):
        for key, value in content.items():
            if not re.search("^GapMonitor|_torchdynamo_wrapper_id", str(key)):
                yield from _leaves(value, f"{name}.{key}")
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from _leaves(value, f"{name}.{number}")
    else:
        yield name, content


def _same(one: Any, other: Any) -> bool:
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
