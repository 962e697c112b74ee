"""What `measure`, predictors and the command `gengap` refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_gengap import GapMonitor, compare, hold_out, measure
from lightning_gengap.monitor.saved_state import FORMAT, to_primitives
from lightning_gengap.predictors.comparison import Standing
from lightning_gengap.predictors.recalibration import recalibrate
from tests.lightning_models import blobs, careless, put_measure, stream
from tests.tiny_predictors import tiny_monitor, tiny_predictor


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 4))


def measured(**arguments: Any) -> None:
    measure(build(), blobs(), **arguments)


def failing(error: Exception) -> None:
    with pytest.MonkeyPatch.context() as patch:
        put_measure(patch, "norm", careless(error))
        measured(measures=["norm"])


def crowded() -> None:
    """Samples that do not fit into memory."""

    def read() -> Any:
        yield torch.eye(4), torch.arange(4)
        raise MemoryError("too many")

    measure(nn.Linear(4, 4), read())


class Unreadable(Dataset[Any]):
    """Samples whose files are gone."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        raise RuntimeError("no file")


def of_rare_classes() -> TensorDataset:
    return TensorDataset(torch.zeros(64, 2), torch.arange(64).clamp(min=6) - 6)


VALUES = {"train_accuracy": 0.95, "train_loss": 0.5, "classes": 4.0, "difficulty/ridge_accuracy": 0.4}


def comparable(classes: int = 4, format: int = FORMAT, **facts: Any) -> GapMonitor:
    """A monitor that has loaded a state."""
    standing = Standing(**({"predictor": "tiny_v1", "classes": classes, "predicted": 0.7, "deviation": 0.1} | facts))
    monitor = tiny_monitor()
    monitor._loaded = {"format": format, "standing": to_primitives(standing), "observations": []}
    return monitor


FUNCTIONS: dict[str, Callable[[], Any]] = {
    "no samples to measure": lambda: measured(samples=0),
    "a seed that is no whole number, in a function": lambda: measured(seed=0.5),
    "a loader without samples": lambda: measure(build(), DataLoader(blobs(0))),
    "a weight decay below 0": lambda: measured(weight_decay=-1),
    "one measure in place of a list": lambda: measured(measures="norm"),
    "initial weights of another network": lambda: measured(initial_state=nn.Linear(2, 2).state_dict()),
    "no value of what was asked for": lambda: measured(measures=["kernel_difficulty"]),
    "a measure that fails for an unknown reason": lambda: failing(RuntimeError("broken measure")),
    "a measure without room in memory": lambda: failing(MemoryError()),
    "data without room in memory": crowded,
    "samples to set aside that are too few": lambda: hold_out(blobs(), 9),
    "more samples to set aside than are left": lambda: hold_out(blobs(), 33),
    "classes too rare to set samples aside": lambda: hold_out(of_rare_classes(), 10),
    "data to set samples aside from that have no index": lambda: hold_out(stream().dataset, 10),
    "data without class indices to set samples aside by": lambda: hold_out(torch.zeros(64, 2), 10),
    "a sample that cannot be read for its class": lambda: hold_out(Unreadable(), 10),
    "classes for other samples than there are": lambda: hold_out(blobs(), 10, labels=[0, 1, 2]),
    "a prediction from no values": lambda: tiny_predictor().predict({}),
    "an observed gap in percent": lambda: recalibrate(tiny_predictor(), [({}, 12.0, 100)]),
    "an observed gap without a number of samples": lambda: recalibrate(tiny_predictor(), [({}, 0.1, 0)]),
    "nothing that can be compared": lambda: compare(3, VALUES),
    "trainings that have something else in common": lambda: compare(VALUES, VALUES, same="seed"),
    "a checkpoint that cannot be compared": lambda: compare("nowhere.ckpt", VALUES),
    "a state of another release": lambda: compare(comparable(format=1), VALUES),
    "a monitor that has predicted nothing": lambda: compare(tiny_monitor(), VALUES),
    "an abstention without held-out samples": lambda: compare(comparable(abstained=True), VALUES),
    "trainings with other classes": lambda: compare(comparable(), comparable(10)),
    "trainings with other predictors": lambda: compare(comparable(), comparable(predictor="tiny_v2")),
    "two trainings in place of two epochs": lambda: compare(comparable(), comparable(predicted=0.6), same="run"),
    "observed gaps of untrained models": lambda: recalibrate(
        tiny_predictor(), [({"train_accuracy": 0.1, "train_loss": 2.3, "classes": 10.0}, 0.0, 100)]
    ),
}

MEASURE = ["measure", "--model", f"{__name__}:build", "--data"]
CURVE = ["learning-curve", "--model", f"{__name__}:build", "--data", "data.npz", "--epochs", "1"]
COMMANDS: dict[str, list[str]] = {
    "fractions that are none": [*CURVE, "--fractions", "1/0"],
    "arguments of a Trainer that are no JSON": [*CURVE, "--trainer", "[1]"],
    "a model that no Trainer trains": CURVE,
    "a model that cannot be built": ["measure", "--model", "no_such:build", "--data", "data.npz"],
    "data that cannot be read": [*MEASURE, "nowhere.npz"],
    "data that the model does not take": [*MEASURE, "wide.npz"],
    "a checkpoint of another model": [*MEASURE, "data.npz", "--checkpoint", "pairs.json"],
    "a checkpoint without a monitor": ["compare", "plain.ckpt", "plain.ckpt"],
    "a single checkpoint": ["compare", "plain.ckpt"],
    "pairs that cannot be read": ["recalibrate", "pairs.json", "--out", "new.json"],
    "a file that would be written over": ["recalibrate", "pairs.json", "--out", "data.npz"],
    "a folder that does not exist": ["recalibrate", "pairs.json", "--out", "no/new.json"],
    "JSON of no predictor": ["predictors", "--json"],
    "an option that does not exist": ["predictors", "--jsno"],
    "a file in place of a folder": ["demo", "--epochs", "1", "--out", "data.npz"],
}


def files(folder: Path) -> Path:
    """A folder with what the commands read."""
    images, labels = blobs().tensors
    np.savez(folder / "data.npz", inputs=images.numpy(), labels=labels.numpy())
    np.savez(folder / "wide.npz", inputs=np.zeros((60, 37), np.float32), labels=np.arange(60) % 4)
    (folder / "pairs.json").write_text(json.dumps([1, 2]))
    torch.save({"callbacks": {}}, folder / "plain.ckpt")
    return folder
