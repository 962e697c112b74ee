"""Kinds of data, of loaders, and of hooks on the way of a batch to its device."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, Dataset, TensorDataset, default_collate

from tests.integration.identity.loops import Noisy
from tests.integration.identity.twins import BATCH, EXAMPLES, FEATURES, Condition, Net, loader, vectors
from tests.lightning_models import Iterated
from tests.orders import ORDERS
from tests.streams import Stream


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


def held_out() -> TensorDataset:
    """Vectors that are not trained on."""
    inputs, targets = vectors().tensors
    return TensorDataset(inputs + 1, targets)


def on(data: Callable[[], Any], model: Callable[[], LightningModule] = Noisy, **arguments: Any) -> Condition:
    return Condition(model, data, **arguments)


def ordered(order: str) -> Condition:
    """Data that are drawn in an order of this name."""
    return on(lambda: DataLoader(**({"dataset": vectors(), "batch_size": BATCH} | ORDERS[order](vectors()))))


LOADERS: dict[str, Condition] = {
    **{order: ordered(order) for order in ORDERS},
    "batch norm on transfer": Condition(NormsTransferred),
    "counts on transfer": Condition(CountsTransfers),
    "data module that counts on transfer": Condition(data=CountingData),
    "own generator of the loader": on(lambda: loader(generator=generator())),
    "last batch dropped": on(lambda: loader(batch_size=7, drop_last=True)),
    "own batches": on(lambda: DataLoader(vectors(), batch_sampler=OwnBatches())),
    "concatenated": on(lambda: loader(ConcatDataset([vectors(), vectors()]))),
    "noise in collation": on(lambda: loader(collate_fn=noisy_collate)),
    "augmented": on(lambda: loader(Augmented())),
    "mappings": on(lambda: loader(Mapped()), Mapping),
    "stream in random order": on(
        lambda: DataLoader(Stream(vectors(), lambda n: torch.randperm(n).tolist()), batch_size=BATCH)
    ),
    "probe data": on(lambda: loader(Augmented()), monitor={"probe_data": vectors()}),
    "held out": on(lambda: loader(Augmented()), monitor={"held_out": held_out()}, validated=True),
    "held out and drawn at random": on(loader, NormsTransferred, monitor={"held_out": Augmented()}),
    "list of batches": on(lambda: Iterated(list(loader(shuffle=False)))),
    "worker": on(lambda: loader(num_workers=1)),
    "augmented in workers that persist": on(lambda: loader(Augmented(), num_workers=2, persistent_workers=True)),
}
