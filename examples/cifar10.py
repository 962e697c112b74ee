"""Train a ResNet on CIFAR-10 without a validation set, and stop on the predicted test accuracy.

    python examples/cifar10.py --data DIRECTORY --limit-train 10000 --epochs 12

DIRECTORY holds cifar10_{train,test}_{images,labels}.npy (images uint8, N x 32 x 32 x 3; labels int64). Without
--data, torchvision downloads the data set (pip install "lightning-gengap[examples]").
"""

import argparse
import time
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapEarlyStopping, GapMonitor

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="folder of .npy arrays; without it torchvision downloads")
parser.add_argument("--limit-train", type=int, default=50_000)
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--width", type=int, default=16)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--predictor", default="default", help="a bundled name, or a file")
parser.add_argument("--no-monitor", action="store_true", help="train without GapMonitor, for comparison")
options = parser.parse_args()


# Data: uint8 arrays become standardised floats.


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    if options.data is not None:
        paths = [options.data / f"cifar10_{split}_{part}.npy" for part in ("images", "labels")]
        return np.load(paths[0]), np.load(paths[1])
    from torchvision.datasets import CIFAR10

    downloaded = CIFAR10("data", train=split == "train", download=True)
    return downloaded.data, np.array(downloaded.targets)


def dataset(split: str, limit: int | None = None) -> TensorDataset:
    images, labels = (torch.from_numpy(array[:limit]) for array in load(split))
    mean, deviation = torch.tensor([125.3, 123.0, 113.9]), torch.tensor([63.0, 62.1, 66.7])
    return TensorDataset(((images - mean) / deviation).permute(0, 3, 1, 2).contiguous(), labels.long())


# Model: three stages of residual blocks. The training step augments its batch.


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.stride, self.extra = stride, outer - inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return F.relu(y + shortcut)


class ResNet(L.LightningModule):
    def __init__(self, width: int, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stage1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.stage2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.stage3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1))
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stage3(self.stage2(self.stage1(self.stem(x)))).mean(dim=(2, 3)))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        flip = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        images = torch.where(flip, images.flip(3), images)
        top, left = torch.randint(0, 9, (2,)).tolist()
        images = F.pad(images, (4, 4, 4, 4))[:, :, top : top + 32, left : left + 32]
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.SGD(
            self.parameters(), self.learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


# The monitor needs only the training loader.


class PrintPrediction(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        value = {key: float(number) for key, number in trainer.callback_metrics.items() if key.startswith("gengap/")}
        print(
            f"epoch {trainer.current_epoch + 1:2}  train {value['gengap/train_accuracy']:.3f}"
            f"  predicted gap {value['gengap/predicted_gap']:.3f}"
            f" [{value['gengap/predicted_gap_lower']:.3f}, {value['gengap/predicted_gap_upper']:.3f}]"
            f"  predicted test {value['gengap/predicted_test_accuracy']:.3f}"
            f"  in support {value['gengap/in_support']:.0f}  status {value['gengap/status']:.0f}"
            f"  overhead {value['gengap/overhead']:.3f}",
            flush=True,
        )


L.seed_everything(options.seed, verbose=False)
training, test = dataset("train", options.limit_train), dataset("test")
callbacks = (
    []
    if options.no_monitor
    else [GapMonitor(options.predictor), GapEarlyStopping(patience=5, verbose=True), PrintPrediction()]
)
trainer = L.Trainer(
    max_epochs=options.epochs, callbacks=callbacks, enable_progress_bar=False, enable_checkpointing=False
)
model = ResNet(options.width)
started = time.perf_counter()
trainer.fit(model, DataLoader(training, batch_size=128, shuffle=True, drop_last=True))
print(f"trained {trainer.current_epoch} epochs in {time.perf_counter() - started:.1f} s")

# The test set is used only now.
model.eval()
with torch.no_grad():
    accuracy = {
        name: torch.cat([model(x).argmax(1) == y for x, y in DataLoader(data, batch_size=500)]).float().mean().item()
        for name, data in (("train", training), ("test", test))
    }
print(f"train accuracy {accuracy['train']:.3f}, test accuracy {accuracy['test']:.3f}, actual gap", end=" ")
print(f"{accuracy['train'] - accuracy['test']:.3f}")
