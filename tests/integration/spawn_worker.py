"""Trains in processes that Lightning spawns; each writes what its monitor measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer

from tests.integration.sharing_worker import Counting, Rows
from tests.lightning_models import loader, quiet_trainer
from tests.tiny_predictors import tiny_monitor


class Writes(Rows):
    """Writes the rows of its rank, because spawned processes give nothing back."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Path(sys.argv[1], f"{trainer.global_rank}.json").write_text(json.dumps(self.rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    callbacks = tiny_monitor(measures=["perturbation"]), Writes(["perturbation"])
    trainer = quiet_trainer(*callbacks, strategy="ddp_spawn", devices=2, max_epochs=2)
    trainer.fit(Counting(), loader(288, batch_size=48))
