"""Small learning curves: tiny modules on blobs, a training in a fraction of a second."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lightning_gengap import LearningCurve, learning_curve
from tests.lightning_models import TinyModel, blobs

TRAINER = {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1}
SAMPLES = 160


def tiny_curve(module: nn.Module | None = None, dataset: Any = None, **arguments: Any) -> LearningCurve:
    """The curve of a tiny module on two parts of 160 blobs, unless other arguments are given."""
    given = {"fractions": (1 / 4, 1 / 2), "trainer": TRAINER, "batch_size": 16, "progress": False} | arguments
    return learning_curve(tiny_module() if module is None else module, dataset or blobs(SAMPLES), **given)


def tiny_module() -> TinyModel:
    """The same weights whenever it is called."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TinyModel()
