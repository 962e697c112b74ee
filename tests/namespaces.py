"""Lightning's two trees, and what a user writes in either: modules and Trainers that are of one tree alone."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.lightning_models import QUIET, EpochValues, loader, validation_loader

FIRST, OTHER = "lightning.pytorch", "pytorch_lightning"
needs_both = pytest.mark.skipif(find_spec(OTHER) is None, reason=f"{OTHER} is not installed; it is optional")
each_tree = pytest.mark.parametrize("tree", [FIRST, pytest.param(OTHER, marks=needs_both)])


def of(tree: str, name: str) -> Any:
    """What that tree calls by this dotted name, such as `callbacks.EarlyStopping`."""
    module, _, last = name.rpartition(".")
    return getattr(import_module(f"{tree}.{module}" if module else tree), last)


def module_of(tree: str, plateau: str | None = None, validated: bool = True) -> Any:
    """A small network that logs `val_acc` if it is `validated`.

    With `plateau` its learning rate falls as soon as that key stagnates.
    """

    class Tiny(of(tree, "LightningModule")):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = cross_entropy(self(batch[0]), batch[1])
            self.log("user_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            if plateau is None:
                return optimizer
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": plateau}}

    class Validated(Tiny):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    torch.manual_seed(0)
    return Validated() if validated else Tiny()


def data_module_of(tree: str) -> Any:
    """The blobs in a data module."""

    class Blobs(of(tree, "LightningDataModule")):  # type: ignore[misc]
        def train_dataloader(self) -> Any:
            return loader()

        def val_dataloader(self) -> Any:
            return validation_loader()

    return Blobs()


class Rows(EpochValues):
    """The metrics at the end of each epoch, but the share of the time, which no two trainings share."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self.rows[-1].pop("gengap/overhead", None)


def trainer_of(tree: str, *callbacks: Any, **arguments: Any) -> Any:
    """A Trainer of that tree for two epochs on the CPU; nothing is printed or written unless asked."""
    return of(tree, "Trainer")(callbacks=list(callbacks), **(QUIET | arguments))


def fit(
    tree: str, *callbacks: Any, model: Any = None, data: Any = None, ckpt_path: Any = None, **arguments: Any
) -> Rows:
    """Train the tree's module on its data module or on these batches, and return the metrics of every epoch."""
    rows, model = Rows(), model or module_of(tree, validated=data is None)
    rows.trainer = trainer_of(tree, *callbacks, rows, **arguments)
    torch.manual_seed(1)
    rows.trainer.fit(model, data_module_of(tree) if data is None else data, ckpt_path=ckpt_path)
    return rows
