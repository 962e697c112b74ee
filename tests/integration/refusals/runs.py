"""Trainers, callbacks and earlier trainings that the monitor has something to say about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_gengap import GapMonitor
from lightning_gengap.measurer import Measurer
from lightning_gengap.monitor.allowance import Budget
from lightning_gengap.monitor.training_loss import TrainingLoss
from tests.integration.refusals.case import Case
from tests.integration.refusals.data import Tokens, tokens
from tests.lightning_models import MemoryLogger, TinyModel, blobs, careless, fitted, loader, put_measure
from tests.tiny_predictors import tiny_monitor


class Scheduled(TinyModel):
    """Its scheduler looks after each step."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=999)
        watched = any(isinstance(callback, GapMonitor) for callback in self.trainer.callbacks)
        how = {"scheduler": scheduler, "monitor": "gengap/train_loss" if watched else "user_loss", "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": how}


def saved(*monitors: Any, edit: Callable[[dict[str, Any]], Any] | None = None) -> Callable[[Path], Path]:
    """What writes the checkpoint of one epoch, where the monitor's state is exchanged for what `edit` returns."""

    def write(folder: Path) -> Path:
        trainer = fitted(*monitors, max_epochs=1).trainer
        trainer.save_checkpoint(folder / "saved.ckpt")
        if edit is not None:
            checkpoint = torch.load(folder / "saved.ckpt", weights_only=True)
            (key,) = [key for key in checkpoint["callbacks"] if key.startswith("GapMonitor")]
            checkpoint["callbacks"][key] = edit(checkpoint["callbacks"][key])
            torch.save(checkpoint, folder / "saved.ckpt")
        return folder / "saved.ckpt"

    return write


def without_schedule(state: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in state.items() if name != "schedule"}


def of_another_network(state: dict[str, Any]) -> dict[str, Any]:
    weights = {**state["memory"]["initial_state"], "head.weight": torch.zeros(5, 16)}
    return {**state, "memory": {**state["memory"], "initial_state": weights}}


def trained_elsewhere() -> TinyModel:
    model = TinyModel()
    fitted(model=model)
    return model


def others() -> Any:
    return DataLoader(blobs(48, seed=7), 16)


class Full(MemoryLogger):
    """Refuses what the monitor logs, and keeps all else."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(key.startswith("gengap/") for key in metrics):
            raise OSError("no space left")
        super().log_metrics(metrics, step)


def broken(*_: Any) -> Any:
    raise ValueError("a fault")


def growing_and_failing(patch: Any) -> None:
    """A measure that was taken, takes in more samples, and fails."""
    put_measure(patch, "k_variance", careless())
    patch.setattr(Measurer, "growing", lambda self: ("k_variance",))


RUNS: dict[str, Case] = {
    "a checkpoint that looks during training": Case(
        reader=lambda: ModelCheckpoint(mkdtemp(), monitor="gengap/predicted_gap", every_n_train_steps=2)
    ),
    "a scheduler that looks during training": Case(Scheduled),
    "a stopper that looks after a validation that never comes": Case(
        reader=lambda: EarlyStopping("gengap/predicted_gap", patience=9, check_on_train_epoch_end=False)
    ),
    "a checkpoint by a value that is absent": Case(
        Tokens,
        {"predictor": None, "measures": ["perturbation"]},
        tokens,
        reader=lambda: ModelCheckpoint(mkdtemp(), monitor="gengap/perturbation/mix_accuracy", mode="max"),
    ),
    "a logger that fails": Case(trainer={"logger": Full()}),
    "a hook of the monitor that fails": Case(patch=lambda patch: patch.setattr(TrainingLoss, "step", broken)),
    "another fault of the monitor": Case(patch=lambda patch: patch.setattr(Budget, "allowance", broken)),
    "a measure that fails while it takes in more samples": Case(patch=growing_and_failing),
    "a barebones Trainer": Case(trainer={"barebones": True, "log_every_n_steps": 0}),
    "a checkpoint that was written without the monitor": Case(checkpoint=saved()),
    "a checkpoint with the initial weights of another network": Case(
        checkpoint=saved(tiny_monitor(), edit=of_another_network)
    ),
    "a damaged state in the checkpoint": Case(checkpoint=saved(tiny_monitor(), edit=without_schedule)),
    "a checkpoint of a monitor with another seed": Case(
        monitor={"seed": 1}, checkpoint=saved(tiny_monitor(samples=32))
    ),
    "weights that were trained before": Case(earlier=loader, late=True),
    "a network that was trained elsewhere": Case(trained_elsewhere),
    "a second fit on other data": Case(earlier=others),
}
