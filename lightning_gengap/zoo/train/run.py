"""One run: train a recipe's model under GapMonitor, and record the measures and the gap at its snapshots."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from lightning_gengap import __version__
from lightning_gengap.errors import ConfigurationError
from lightning_gengap.monitor.gap_monitor import GapMonitor
from lightning_gengap.undisturbed import undisturbed
from lightning_gengap.zoo.files import finished, write_whole
from lightning_gengap.zoo.train.model import fresh_model, loader, make_trainer
from lightning_gengap.zoo.train.observed_gap import observed_gap
from lightning_gengap.zoo.train.recipe import Recipe
from lightning_gengap.zoo.train.silence_lightning import silence_lightning
from lightning_gengap.zoo.train.snapshots import Weights
from lightning_gengap.zoo.train.task import TaskData, prepare

TAKEN_IN_TRAINING = ("margin", "norm", "difficulty")  # beside fit, which every monitor takes
TAKEN_BEFORE = (*TAKEN_IN_TRAINING, "perturbation")  # in the plans before the third zoo
MONITORED = 1024  # samples, as by default


def run(
    recipe: Recipe, directory: Path | None, runs: Path, keep_weights: bool = False, accelerator: str = "cpu"
) -> bool:
    """Train unless `runs/<key>.json` holds a whole run; True if it had to be trained.

    The file appears in one step when the run is complete, so a kill at any moment loses at most one run. The key does
    not depend on the accelerator. Kept weights, those before training and at the snapshots, go to `runs/<key>.npz`.
    """
    path = runs / f"{recipe.key}.json"
    if finished(path):
        return False
    check_accelerator(accelerator)
    torch.set_num_threads(1)
    kept = Weights() if keep_weights else None
    with silence_lightning():
        rows = train(recipe, directory, kept, accelerator)
    if kept is not None:
        kept.write(path.with_suffix(".npz"))
    content = {"version": __version__, "key": recipe.key, "recipe": asdict(recipe), "rows": rows}
    write_whole(path, json.dumps(content))
    return True


def check_accelerator(name: str) -> None:
    """Refuse `gpu` where there is none."""
    if name == "gpu" and not (CUDAAccelerator.is_available() or MPSAccelerator.is_available()):
        raise ConfigurationError(
            "--accelerator gpu",
            got="no GPU that torch can use here",
            expected="a CUDA or MPS device",
            remedy="Use --accelerator cpu, or auto for a GPU where there is one.",
        )


def train(
    recipe: Recipe, directory: Path | None, kept: Weights | None = None, accelerator: str = "cpu"
) -> list[dict[str, float]]:
    """Train the recipe and return a row per snapshot; `kept` collects the weights before training and at them."""
    data = prepare(recipe.task, directory)
    model = fresh_model(recipe, data, directory)
    monitor = GapMonitor(
        predictor=None,
        every_n_epochs=recipe.snapshot_every,
        samples=MONITORED,
        budget=None,
        measures=TAKEN_IN_TRAINING if recipe.plan else TAKEN_BEFORE,
        verbosity="quiet",
        on_error="raise",
    )
    snapshots = Snapshots(monitor, data, recipe.task.noise, kept)
    if kept is not None:
        kept.add(0, model)
    make_trainer(recipe.epochs, [monitor, snapshots], accelerator).fit(model, loader(data, recipe.batch_size))
    return snapshots.rows


class Snapshots(Callback):
    """Records the monitor's values beside the gap on all training samples and the test set."""

    def __init__(self, monitor: GapMonitor, data: TaskData, noise: float, kept: Weights | None = None) -> None:
        self.monitor, self.data, self.noise, self.kept = monitor, data, noise, kept
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a row after each measurement of the schedule. The last epoch, when not among these, has none."""
        epochs, every = trainer.current_epoch + 1, self.monitor.every_n_epochs
        if epochs > 1 and epochs % every:
            return
        with undisturbed(pl_module), torch.no_grad():
            gaps = observed_gap(pl_module, self.data, self.noise)
        values = {f"measure.{key}": value for key, value in self.monitor.values.items()}
        self.rows.append({"epoch": float(trainer.current_epoch + 1), **values, **gaps})
        if self.kept is not None:
            self.kept.add(trainer.current_epoch + 1, pl_module)
