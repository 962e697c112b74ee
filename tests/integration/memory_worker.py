"""Trains where the process may take little more memory than training needs, and writes what came of it.

The limit is the operating system's, on the addresses of this process alone: allocations really fail.
"""

from __future__ import annotations

import json
import resource
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapMonitor, measure
from lightning_gengap.errors import MeasureError
from tests.lightning_models import EpochValues, quiet_trainer
from tests.tiny_predictors import tiny_monitor

EXPENSIVE = ["full_soft_rank", "network_leave_one_out"]
ROOM = 100 * 2**20
SAMPLES, SIDE, CHANNELS, CLASSES = 64, 32, 24, 10


class Wide(LightningModule):
    """Large activations: a batch fits, the graphs of all samples do not, nor does their Jacobian."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(1, CHANNELS, 3, padding=1), nn.Tanh()]
        for _ in range(4):
            convolutions += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS), nn.Tanh()]
        self.layers = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(16 * CHANNELS, 128), nn.Tanh(), nn.Linear(128, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05)


class Limit(Callback):
    """From the second step on, the process may take ROOM more addresses than it has."""

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: object) -> None:
        if trainer.global_step == 2:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, resource.RLIM_INFINITY))


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(SAMPLES) % CLASSES
    means = torch.randn(CLASSES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return TensorDataset(means[targets] + torch.randn(SAMPLES, 1, SIDE, SIDE, generator=generator), targets)


def main(monitored: bool, file: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, values = Wide(), EpochValues()
    monitor: list[GapMonitor] = [tiny_monitor(measures=EXPENSIVE, verbosity="normal")] if monitored else []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = quiet_trainer(*monitor, values, Limit(), max_epochs=1)
        trainer.fit(model, DataLoader(data(), batch_size=8, shuffle=True))
    refused = ""
    if monitored:
        try:
            measure(model, DataLoader(data(), batch_size=SAMPLES), measures=["network_leave_one_out"])
        except MeasureError as error:
            refused = str(error)
    outcome = {
        "weights": torch.cat([weight.detach().flatten() for weight in model.parameters()]).tolist(),
        "epochs": trainer.current_epoch,
        "rows": values.rows,
        "said": [str(warning.message) for warning in caught],
        "refused": refused,
    }
    file.write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(sys.argv[1] == "with", Path(sys.argv[2]))
