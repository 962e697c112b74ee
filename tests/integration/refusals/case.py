"""A training in which the monitor says something once and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule

from tests.lightning_models import TinyModel, loader


@dataclass(frozen=True)
class Case:
    """A training of three epochs.

    Attributes:
        model: makes the module; a seed is set before.
        monitor: arguments of the monitor.
        data: makes the training data.
        trainer: arguments of the Trainer.
        reader: makes a callback that stands behind the monitor.
        patch: breaks a part of the monitor.
        earlier: makes the data of an earlier fit of one epoch with the same Trainer.
        late: whether the monitor comes only after that.
        checkpoint: writes into a folder the checkpoint that training resumes from.
    """

    model: Callable[[], LightningModule] = TinyModel
    monitor: dict[str, Any] = field(default_factory=dict)
    data: Callable[[], Any] = loader
    trainer: dict[str, Any] = field(default_factory=dict)
    reader: Callable[[], Any] | None = None
    patch: Callable[[pytest.MonkeyPatch], None] | None = None
    earlier: Callable[[], Any] | None = None
    late: bool = False
    checkpoint: Callable[[Path], Path] | None = None
