"""One of several gloo processes that share the forwards of their measurements; writes what its rank measured."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_gengap import GapMonitor
from tests.lightning_models import MemoryLogger, ValidatedModel, blobs, loader, quiet_trainer
from tests.streams import Stream
from tests.tally import emptied
from tests.tiny_predictors import tiny_monitor

RANK, SIZE = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 2))  # without in a spawned one
MEASURES = ["perturbation", "calibration", "margin", "augmentation", "sharpness"]
SEEN: SimpleQueue[int] = SimpleQueue()  # of samples, one entry a forward


class Counting(ValidatedModel):
    """Counts what the monitor hands to it; fails there in the first epoch, on the last rank, in that forward."""

    def __init__(self, fails_in: int | None = None) -> None:
        super().__init__()
        self.fails_in = fails_in

    def forward(self, images: Tensor) -> Tensor:
        if not (self.training or self.trainer.validating or self.trainer.sanity_checking):
            SEEN.put(len(images))
            if (
                self.global_rank == self.trainer.world_size - 1
                and SEEN.qsize() == self.fails_in
                and self.trainer.current_epoch == 0
            ):
                raise ArithmeticError("broken forward")
        return super().forward(images)


class Rows(Callback):
    """What each epoch's measurement gave, how many samples it took here, and what one process alone gives."""

    def __init__(self, alone: list[str] | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.alone = alone

    def on_train_batch_end(self, *others: Any) -> None:
        emptied(SEEN)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        monitor = _monitor_of(trainer)
        shown = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("gengap/")}
        row = {"seen": sum(emptied(SEEN)), "shown": shown, "values": monitor.values}
        if self.alone is not None:
            assert monitor._state is not None
            assert monitor._state.measurer is not None
            emptied(SEEN)
            row["alone"] = monitor._state.measurer.measure(pl_module, ["fit", *self.alone]).values
            row["seen alone"] = sum(emptied(SEEN))
        self.rows.append(row)


def _monitor_of(trainer: Trainer) -> GapMonitor:
    (monitor,) = [callback for callback in trainer.callbacks if isinstance(callback, GapMonitor)]
    return monitor


def trained(
    monitor: GapMonitor | None,
    *callbacks: Callback,
    model: LightningModule | None = None,
    data: Any = None,
    held_out: Any = None,
    alone: list[str] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """The rows, the weights and buffers at the end, and what was said."""
    torch.manual_seed(0)
    emptied(SEEN)
    rows, own = Rows(alone), [] if monitor is None else [monitor]
    arguments = {"strategy": "ddp", "devices": SIZE, "max_epochs": 2} | arguments
    trainer = quiet_trainer(*own, *callbacks, *([] if monitor is None else [rows]), **arguments)
    model = Counting() if model is None else model
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(model, loader(576, batch_size=96) if data is None else data, held_out)
    tensors = torch.cat([tensor.detach().flatten().double() for tensor in model.state_dict().values()])
    said = [str(each.message) for each in caught if str(each.message).startswith("GapMonitor")]
    return {"rows": rows.rows, "tensors": tensors.tolist(), "said": said, "step": trainer.global_step}


def steps() -> dict[str, Any]:
    """Measured by optimizer steps."""
    logger = MemoryLogger()
    outcome = trained(tiny_monitor(every_n_train_steps=3), data=loader(96 * SIZE), logger=logger, max_epochs=1)
    return outcome | {"logged": logger.series("gengap/predicted_gap")}


def reader() -> dict[str, Any]:
    """Measured where a validation begins that somebody looks at the end of, twice an epoch."""
    stopping = EarlyStopping("gengap/train_loss", patience=99)
    held_out = DataLoader(blobs(32, seed=1), 16)
    logger = MemoryLogger()
    data = loader(64 * SIZE)
    arguments = {"val_check_interval": 2, "max_epochs": 1, "logger": logger}
    outcome = trained(tiny_monitor(), stopping, data=data, held_out=held_out, **arguments)
    return outcome | {"logged": logger.series("gengap/train_loss"), "best": float(stopping.best_score)}


def failing(fails_in: int, **arguments: Any) -> dict[str, Any]:
    """The last rank's forward fails once, in the first measurement of an epoch that is due."""
    monitor = tiny_monitor(**arguments)
    outcome = trained(monitor, model=Counting(fails_in), max_epochs=3)
    assert monitor._state is not None
    return outcome | {"failures": monitor._state.schedule.failures}


SETTINGS = {
    "without": lambda: trained(None),
    "with": lambda: trained(tiny_monitor(measures=["perturbation"])),
    "five chunks": lambda: trained(tiny_monitor(measures=MEASURES), alone=MEASURES, precision="64-true"),
    "one chunk": lambda: trained(tiny_monitor(measures=["perturbation"]), alone=["perturbation"], data=loader(96)),
    "rank stream": lambda: trained(tiny_monitor(), data=DataLoader(Stream(blobs(32, seed=RANK)), batch_size=8)),
    "steps": steps,
    "reader": reader,
    "fit fails": lambda: failing(1),
    "perturbation fails": lambda: failing(1 + -(-5 // SIZE), measures=["perturbation", "calibration"]),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    outcomes = {name: setting() for name, setting in SETTINGS.items()}
    Path(sys.argv[1], f"{RANK}.json").write_text(json.dumps(outcomes))
