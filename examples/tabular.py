"""Train an MLP on a table of scikit-learn, not on images, and compare the predicted gap with the held-out one.

    python examples/tabular.py [--samples 2000] [--epochs 40]

The data are not images, so `default_v4` predicts the gap. It goes by the train accuracy, and by how often the network
agrees with classifiers that have not seen the label, such as a random forest out of its bag.
"""

import argparse

import lightning as L
import torch
from sklearn.datasets import make_classification
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapMonitor

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--samples", type=int, default=2000, help="size of the training set")
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

TEST = 4000
table, classes = make_classification(
    options.samples + TEST, 30, n_informative=12, n_classes=4, class_sep=1.5, flip_y=0.1, random_state=options.seed
)
inputs, labels = torch.tensor(table, dtype=torch.float32), torch.tensor(classes)
train = TensorDataset(inputs[TEST:], labels[TEST:])


class Table(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(30, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))

    def forward(self, rows: Tensor) -> Tensor:
        return self.net(rows)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-3)


class Report(L.Callback):
    """Prints the monitor's prediction beside the actual gap, which the monitor never sees."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if (trainer.current_epoch + 1) % 5 == 0:
            logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
            with torch.no_grad():
                right = (pl_module(inputs).argmax(1) == labels).float()
            print(
                f"epoch {trainer.current_epoch + 1:2}  train {right[TEST:].mean():.3f}  "
                f"predicted gap {logged['gengap/predicted_gap']:.3f} "
                f"[{logged['gengap/predicted_gap_lower']:.3f}, {logged['gengap/predicted_gap_upper']:.3f}]  "
                f"actual {right[TEST:].mean() - right[:TEST].mean():.3f}  in support {logged['gengap/in_support']:.0f}"
            )


L.seed_everything(options.seed, verbose=False)
monitor = GapMonitor()
silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = L.Trainer(max_epochs=options.epochs, callbacks=[monitor, Report()], **silent)
trainer.fit(Table(), DataLoader(train, 64, shuffle=True))
