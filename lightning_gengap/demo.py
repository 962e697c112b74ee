"""The demo: a small convolutional network on digits with corrupted labels, and its predicted and actual gap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap.monitor.gap_monitor import GapMonitor
from lightning_gengap.zoo.train.datasets import load
from lightning_gengap.zoo.train.silence_lightning import silence_lightning

CORRUPTED = 0.3


class DigitsNetwork(LightningModule):
    """Two convolutions and two dense layers on 8 x 8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 16, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, 10)."""
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy with the labels as given, the corrupted ones included."""
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy on images that the monitor never sees, to show the actual gap beside the predicted one."""
        accuracy = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("val_accuracy", accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), 1e-3)


class PrintGap(Callback):
    """Prints one line per epoch, from the logged values alone."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print predicted and actual gap in accuracy points."""
        logged = {key.removeprefix("gengap/"): float(value) for key, value in trainer.callback_metrics.items()}
        status = ("", "held", "failed", "abstaining", "off", "never")[int(logged["status"])]
        interval = f"{100 * logged['predicted_gap_lower']:5.1f} ..{100 * logged['predicted_gap_upper']:6.1f}"
        support = "yes" if logged["in_support"] else "no"
        print(
            f"{trainer.current_epoch + 1:5}  {100 * logged['train_accuracy']:8.1f}"
            f"  {100 * logged['predicted_gap']:9.1f}  {interval:>15}"
            f"  {100 * logged['actual_gap']:6.1f}  {support:>7}  {status}"
        )


def demo(epochs: int, out: Path) -> None:
    """Train the network, print a line per epoch, write TensorBoard events to `out`, and say how to look at them."""
    out.mkdir(parents=True, exist_ok=True)
    seed_everything(0, verbose=False)
    training, test = _digits("train"), _digits("test")
    print(f"{len(training)} digits, {CORRUPTED:.0%} of their labels redrawn at random; gaps in accuracy points")
    print("epoch  train acc  predicted     90 % interval  actual  support")
    with silence_lightning():
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=TensorBoardLogger(out, name="demo"),
            callbacks=[GapMonitor(), PrintGap()],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            log_every_n_steps=10,
        )
        trainer.fit(
            DigitsNetwork(),
            DataLoader(training, batch_size=64, shuffle=True),
            DataLoader(test, batch_size=len(test)),
        )
    print("\nThe predicted gap used the training images only; the actual one needed the held-out test images.")
    print(f"Charts and margin histograms: tensorboard --logdir {out}")


def _digits(split: str) -> TensorDataset:
    images, labels = load("digits", split, None)
    rng = np.random.default_rng(0 if split == "train" else 1)
    redrawn = rng.random(len(labels)) < CORRUPTED
    labels = np.where(redrawn, rng.integers(0, 10, len(labels)), labels)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return TensorDataset((pixels - 0.3) / 0.37, torch.from_numpy(labels))
