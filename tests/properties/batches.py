"""Data sets of every kind of inputs, the forms that batches take, and what loaders draw from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from tests.orders import ORDERS, half_of
from tests.properties.architectures import CLASSES, SHAPES, VOCABULARY, Architecture

EXAMPLES, HELD_OUT = 30, 13


class Samples(Dataset[Any]):
    """Triples of inputs, a scale for the logits and a target; inputs stand around one mean per class."""

    def __init__(self, parts: Architecture, examples: int = EXAMPLES, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.targets = torch.randperm(examples, generator=generator) % CLASSES
        shape = SHAPES[parts.kind]
        if parts.kind == "tokens":
            self.inputs = torch.randint(0, VOCABULARY, (examples, *shape), generator=generator)
            self.inputs[:, 0] = self.targets + 1
        else:
            means = torch.randn(CLASSES, *shape, generator=torch.Generator().manual_seed(99))
            self.inputs = means[self.targets] + torch.randn(examples, *shape, generator=generator)
        if parts.whole_numbers:
            self.inputs = (64 * (self.inputs + 2)).clamp(0, 255).to(torch.uint8)
        self.scales = 0.5 + torch.rand(examples, generator=generator)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.inputs[index], self.scales[index], self.targets[index]


# The forms of a batch: how it is made of inputs, scales and targets, and what a step passes to the forward.


@dataclass
class Fields:
    image: Tensor
    label: Tensor


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Form:
    """How a batch is made, and how a step takes it apart: into the forward's arguments and the targets."""

    make: Callable[[Tensor, Tensor, Tensor], Any]
    take: Callable[[Any], tuple[tuple[Any, ...], Tensor]]


FORMS: dict[str, Form] = {
    "pair": Form(lambda x, scale, y: [x, y], lambda batch: ((batch[0],), batch[1])),
    "named pair": Form(lambda x, scale, y: Pair(x, y), lambda batch: ((batch.x,), batch.y)),
    "mapping": Form(lambda x, scale, y: {"x": x, "y": y}, lambda batch: ((batch["x"],), batch["y"])),
    "mapping with more": Form(
        lambda x, scale, y: {"inputs": x, "scale": scale, "labels": y, "name": "batch"},
        lambda batch: ((batch["inputs"], batch["scale"]), batch["labels"]),
    ),
    "dataclass": Form(lambda x, scale, y: Fields(x, y), lambda batch: ((batch.image,), batch.label)),
    "nested": Form(lambda x, scale, y: ((x, {"scale": scale}), y), lambda batch: ((batch[0],), batch[1])),
    "column of targets": Form(lambda x, scale, y: [x, y[:, None]], lambda batch: ((batch[0],), batch[1][:, 0])),
}


@dataclass(frozen=True)
class Collate:
    """Makes a batch of triples."""

    form: str
    time_first: bool

    def __call__(self, triples: Any) -> Any:
        inputs, scales, targets = default_collate(triples)
        return FORMS[self.form].make(inputs.transpose(0, 1) if self.time_first else inputs, scales, targets)


def trained_on(order: str, batches: int | None, batch_size: int, drop_last: bool) -> list[int] | None:
    """The indices that training draws from; None where they are the first that a stream gives."""
    if order == "stream":
        return None
    if order == "in order":
        most = EXAMPLES if batches is None else batches * batch_size
        return list(range(min(most, EXAMPLES - EXAMPLES % batch_size if drop_last else EXAMPLES)))
    half = half_of(range(EXAMPLES))
    if order == "subset":
        return half
    return sorted(half) if order in ("random half", "weighted") else list(range(EXAMPLES))


def loader_of(parts: Architecture, form: str, order: str, batch_size: int, drop_last: bool) -> DataLoader[Any]:
    """A loader of the training set."""
    data = Samples(parts)
    how = {"dataset": data, "batch_size": batch_size, "drop_last": drop_last} | ORDERS[order](data)
    return DataLoader(collate_fn=Collate(form, parts.time_first), **how)
