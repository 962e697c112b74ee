"""What acting on the predicted test accuracy costs: checkpoints and stopping by the recipes of the README.

    python studies/acting.py --out runs/acting.csv [--data DIRECTORY] [--jobs 2] [--only NAME]

Each run trains once under GapMonitor at default arguments, with Lightning's own callbacks on its key. Some runs improve
to the end; in others the test accuracy turns. The stoppers note when they would stop, and let the training go on, so
that one training serves all recipes. A finished run is appended to --out and not trained again. Prints Markdown.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapEarlyStopping, GapMonitor
from lightning_gengap.zoo.files import append_row, read_rows
from lightning_gengap.zoo.train.model import ZooModel
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.silence_lightning import silence_lightning
from lightning_gengap.zoo.train.task import Task, TaskData, prepare

KEY = "gengap/predicted_test_accuracy"
RECIPES = {
    "checkpoint": "`ModelCheckpoint`",
    "stop": "`EarlyStopping`",
    "gap stop": "`GapEarlyStopping(patience=5)`",
    "hold-out": "best of 100 held-out samples",
}
STATUSES = {"fresh": (0,), "held": (1,), "abstaining": (3, 5)}  # 2 and 4 are failures
HELD_OUT = 100
KINDS = {"improves": "improve to the end", "turns": "turn"}


@dataclass(frozen=True)
class Run:
    """One training. A run that `turns` has noisy labels and goes on until it has memorised them."""

    kind: str
    source: str
    family: str
    samples: int
    epochs: int
    noise: float = 0.0
    width: int = 8
    depth: int = 1
    norm: bool = True
    augment: bool = False
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    seed: int = 0

    @property
    def name(self) -> str:
        """Its identity in the table."""
        return f"{self.kind}_{self.source}_{self.family}_{self.samples}_{self.seed}"

    @property
    def recipe(self) -> Recipe:
        """The zoo's description of the same training. What improves to the end has a cosine schedule."""
        side = {"digits": 8, "fashion_mnist": 14, "cifar10": 16}[self.source]
        task = Task(self.source, tuple(range(10)), side, False, self.samples, self.noise, self.seed)
        return Recipe(
            task=task,
            family=self.family,
            width=self.width,
            depth=self.depth,
            norm=self.norm,
            dropout=0.0,
            weight_decay=1e-4,
            augment=self.augment,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            cosine=self.kind == "improves",
            batch_size=64,
            epochs=self.epochs,
            snapshot_every=1,
            seed=self.seed,
        )


RUNS = (
    Run("improves", "digits", "mlp", 1000, 20),
    Run("improves", "digits", "cnn", 1000, 20, width=16, learning_rate=3e-3),
    Run("improves", "digits", "resnet", 600, 20, learning_rate=3e-3),
    Run("improves", "digits", "vit", 1000, 30, width=16),
    Run("improves", "fashion_mnist", "mlp", 4000, 20),
    Run("improves", "fashion_mnist", "cnn", 4000, 20, width=16, optimizer="sgd", learning_rate=0.02),
    Run("improves", "fashion_mnist", "vgg", 3000, 15, norm=False),
    Run("improves", "fashion_mnist", "mobilenet", 4000, 15, learning_rate=3e-3),
    Run("improves", "cifar10", "cnn", 5000, 20, width=24, augment=True, learning_rate=3e-3),
    Run("improves", "cifar10", "vgg", 5000, 15, width=16, augment=True),
    Run("improves", "cifar10", "resnet", 5000, 15, augment=True, learning_rate=3e-3),
    Run("improves", "cifar10", "mlp", 4000, 15, optimizer="sgd", learning_rate=0.005),
    Run("turns", "digits", "mlp", 1000, 60, noise=0.4, width=32),
    Run("turns", "digits", "cnn", 1000, 60, noise=0.4, width=32, depth=2, learning_rate=3e-3),
    Run("turns", "fashion_mnist", "mlp", 2000, 40, noise=0.4, width=32),
    Run("turns", "fashion_mnist", "vgg", 3000, 40, noise=0.4, width=16),
    Run("turns", "fashion_mnist", "resnet", 2000, 40, noise=0.4, learning_rate=3e-3),
    Run("turns", "cifar10", "vgg", 3000, 40, noise=0.3, width=16),
)


class Noting:
    """Notes when a stopper would stop, and lets the training go on."""

    stopped: int | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide until the first stop."""
        if self.stopped is None:
            super().on_train_epoch_end(trainer, pl_module)  # type: ignore[misc]
            if trainer.should_stop:
                self.stopped, trainer.should_stop = trainer.current_epoch, False


class NotingEarlyStopping(Noting, EarlyStopping):
    """Lightning's own."""


class NotingGapEarlyStopping(Noting, GapEarlyStopping):
    """The package's."""


class Recorder(Callback):
    """Keeps the weights and the status of every epoch. Nothing is evaluated during the training that is timed."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.statuses: list[int] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy them."""
        self.weights.append({name: tensor.detach().clone() for name, tensor in pl_module.state_dict().items()})
        self.statuses.append(int(trainer.callback_metrics["gengap/status"]))


def trained(run: Run, data: TaskData, folder: Path) -> tuple[ZooModel, Recorder, dict[str, int]]:
    """The model, what was recorded, and the epoch whose weights each recipe of the README keeps."""
    seed_everything(run.seed, verbose=False)
    model, recorder = ZooModel(run.recipe, data.train_images.shape[1]), Recorder()
    checkpoint = ModelCheckpoint(
        folder, "{epoch}", KEY, mode="max", save_on_train_epoch_end=True, auto_insert_metric_name=False
    )
    stop = NotingEarlyStopping(KEY, mode="max", check_on_train_epoch_end=True)
    gap_stop = NotingGapEarlyStopping(patience=5)
    trainer = Trainer(
        max_epochs=run.epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[GapMonitor(), recorder, checkpoint, stop, gap_stop],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(TensorDataset(data.train_images, data.train_labels), 64, shuffle=True))
    kept = {"checkpoint": int(Path(checkpoint.best_model_path).stem)}
    for name, one in (("stop", stop), ("gap stop", gap_stop)):
        kept[name] = run.epochs - 1 if one.stopped is None else one.stopped
    return model, recorder, kept


@torch.no_grad()
def accuracies(model: ZooModel, weights: Sequence[Mapping[str, Tensor]], images: Tensor, labels: Tensor) -> list[float]:
    """Of every epoch."""
    found = []
    model.eval()
    for own in weights:
        model.load_state_dict(own)
        logits = torch.cat([model(chunk) for chunk in images.split(500)])
        found.append(float((logits.argmax(1) == labels).double().mean()))
    return found


def row_of(run: Run, directory: Path | None) -> dict[str, Any]:
    """The test accuracy, in points, at the last epoch, at the best one, and at the one that each recipe keeps.

    The 100 held-out samples are no part of the test samples. Their labels are as noisy as those of the training.
    """
    torch.set_num_threads(1)
    data = prepare(run.recipe.task, directory)
    with tempfile.TemporaryDirectory() as folder, silence_lightning():
        model, recorder, kept = trained(run, data, Path(folder))
    rng = np.random.default_rng(run.seed)
    order = torch.from_numpy(rng.permutation(len(data.test_labels)))
    held, tested = order[:HELD_OUT], order[HELD_OUT:]
    redrawn = torch.from_numpy(rng.random(HELD_OUT) < run.noise)
    given = torch.where(redrawn, torch.from_numpy(rng.integers(0, 10, HELD_OUT)), data.test_labels[held])
    test = accuracies(model, recorder.weights, data.test_images[tested], data.test_labels[tested])
    hold_out = accuracies(model, recorder.weights, data.test_images[held], given)
    kept["hold-out"] = int(np.argmax(hold_out))
    oracle = int(np.argmax(test))
    row: dict[str, Any] = {"run": run.name, "kind": run.kind, "epochs": run.epochs}
    for name, group in STATUSES.items():
        row[name] = round(sum(status in group for status in recorder.statuses) / run.epochs, 3)
    for name, epoch in {"last": run.epochs - 1, "oracle": oracle, **kept}.items():
        row |= {f"{name} epoch": epoch + 1, name: round(100 * test[epoch], 2)}
    return row


def read(path: Path) -> list[dict[str, Any]]:
    """The finished runs."""
    return [{k: v if k in ("run", "kind") else float(v) for k, v in row.items()} for row in read_rows(path)]


def lost(rows: Sequence[Mapping[str, Any]], recipe: str) -> list[float]:
    """Test points by which each run is worse at the kept epoch than at the last one."""
    return [row["last"] - row[recipe] for row in rows]


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each run, and what each recipe lost."""
    columns = ["last", "oracle", *RECIPES]
    lines = [f"| run | epochs | fresh | {' | '.join(columns)} |", "|---" * (3 + len(columns)) + "|"]
    for row in rows:
        cells = [f"{row[name]:.1f} ({row[f'{name} epoch']:.0f})" for name in columns]
        lines.append(f"| {row['run']} | {row['epochs']:.0f} | {100 * row['fresh']:.0f} % | {' | '.join(cells)} |")
    lines += ["", "Test accuracy in points (epoch).", ""]
    lines += ["| runs | recipe | points lost against the last epoch | largest | runs that lost over 1 point |"]
    lines += ["|---|---|---|---|---|"]
    for kind, words in KINDS.items():
        own = [row for row in rows if row["kind"] == kind]
        for recipe, name in (RECIPES | {"oracle": "best epoch"}).items() if own else ():
            points = lost(own, recipe)
            spread = statistics.stdev(points) if len(points) > 1 else 0.0
            many = sum(point > 1 for point in points)
            mean = f"{statistics.mean(points):+.1f} ± {spread:.1f}"
            lines.append(f"| {len(own)} that {words} | {name} | {mean} | {max(points):+.1f} | {many} |")
    lines += ["", "Mean and standard deviation over runs; less than 0 is a gain."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, runs: Sequence[Run] = RUNS) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/acting.csv"))
    parser.add_argument("--data", type=Path, help="a folder of <source>_<split>_{images,labels}.npy; without it digits")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, of one thread each")
    parser.add_argument("--only", default="", help="only runs with this in their name")
    options = parser.parse_args(arguments)
    chosen = [run for run in runs if options.only in run.name and (options.data or run.source == "digits")]
    done = {row["run"] for row in read(options.out)}
    todo = [run for run in chosen if run.name not in done]
    if options.jobs == 1:
        for run in todo:
            append_row(options.out, row_of(run, options.data))
    else:
        with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
            for future in as_completed([pool.submit(row_of, run, options.data) for run in todo]):
                append_row(options.out, future.result())
    names = [run.name for run in chosen]
    rows = [row for row in read(options.out) if row["run"] in names]
    print(report(sorted(rows, key=lambda row: names.index(row["run"]))))


if __name__ == "__main__":
    main()
