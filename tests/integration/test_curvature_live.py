"""Curvature measures in a live training: the optimizer's decay, the spectrum in loggers, strange optimizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import optim

from lightning_gengap import measure
from tests.integration.test_bit_identity import assert_identical
from tests.lightning_models import ManualModel, MemoryLogger, TinyModel, blobs, fitted, resumed, saved, watched
from tests.tiny_predictors import tiny_monitor

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent")  # small samples lack some measures

KEYS = ("soft_rank", "lambda", "lambda_assumed", "lambda_varies")


class Decayed(TinyModel):
    """Trained by the optimizer that `make` gives for it."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def configure_optimizers(self) -> Any:
        return self.make(self)


class Manual(ManualModel):
    """One optimizer with decay, stepped by hand."""

    def configure_optimizers(self) -> Any:
        return [optim.SGD(self.parameters(), 0.02, weight_decay=2e-3)]

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        return [super().optimizers(use_pl_optimizer)]


class Stranger(optim.SGD):
    """A subclass, whose decay may be anything."""


def monitor(**more: Any) -> Any:
    return tiny_monitor(measures=["soft_rank"], on_error="raise", **more)


def adamw() -> Decayed:
    return Decayed(lambda model: optim.AdamW(model.parameters(), 0.02, weight_decay=0.1))


@pytest.mark.parametrize(
    ("model", "decay"),
    [(Decayed(lambda model: optim.SGD(model.parameters(), 0.02, weight_decay=4e-3)), 4e-3), (Manual(), 2e-3)],
    ids=["automatic", "manual"],
)
def test_coupled_decay_is_read_from_the_trainers_optimizer(model: TinyModel, decay: float) -> None:
    watching = monitor()
    fitted(watching, model=model, max_epochs=1)
    rank, *ridge = (watching.values[f"curvature/{name}"] for name in KEYS)
    assert ridge == [decay, 0, 0]
    assert rank > 0


def test_adamw_has_its_metric_as_a_standalone_measurement_with_the_optimizer_has() -> None:
    model, watching = adamw(), monitor()
    fitted(watching, model=model, max_epochs=1)
    assert (watching.values["curvature/lambda_varies"], watching.values["curvature/lambda_assumed"]) == (1, 0)
    again = measure(model, blobs(), ["soft_rank"], weight_decay=model.trainer.optimizers[0])
    for name in KEYS:  # the samples come in another order, and meet other random signs
        spread = 0.2 if name == "soft_rank" else 1e-6
        assert again[f"curvature/{name}"] == pytest.approx(watching.values[f"curvature/{name}"], rel=spread)


class Two(ManualModel):
    """Two optimizers with decay."""

    def configure_optimizers(self) -> Any:
        return [optim.SGD(part.parameters(), 0.02, weight_decay=1e-3) for part in (self.body, self.head)]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Two(), "weight decay is absent: there are 2 optimizers"),
        (
            Decayed(lambda model: Stranger(model.parameters(), 0.02, weight_decay=1e-3)),
            "how that of Stranger acts is not known",
        ),
    ],
    ids=["two", "strange"],
)
def test_a_decay_that_cannot_be_read_is_assumed_and_said_once(model: TinyModel, words: str) -> None:
    watching = monitor()
    _, said = watched(watching, model=model)
    assert len([text for text in said if words in text]) == 1
    assert watching.values["curvature/lambda_assumed"] == 1


def test_a_resumed_run_reads_the_same_ridge(tmp_path: Path) -> None:
    first, second = monitor(), monitor()
    path = saved(tmp_path, first, epochs=1, model=adamw())
    torch.load(path, weights_only=True)  # nothing but tensors and primitives
    resumed(path, second, epochs=2, model=adamw(), limit_train_batches=1)
    assert second.values["curvature/lambda_varies"] == 1
    assert second.values["curvature/lambda"] == pytest.approx(first.values["curvature/lambda"], rel=0.5)


def test_watching_the_curvature_changes_neither_weights_nor_optimizer() -> None:
    assert_identical(monitor(), model=adamw, max_epochs=1)


def test_tensorboard_has_the_spectrum_at_the_steps_where_it_was_measured(tmp_path: Path) -> None:
    memory = MemoryLogger()
    fitted(monitor(verbosity="normal"), logger=[TensorBoardLogger(tmp_path, name=None, version=""), memory])
    written = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    assert "gengap/curvature/spectrum" in written.Tags()["histograms"]
    events = written.Histograms("gengap/curvature/spectrum")
    assert {event.step for event in events} <= {3, 7}
    counted = events[-1].histogram_value
    assert counted.num == pytest.approx(64 * 3, rel=1e-6)  # samples x (classes - 1)
    assert sum(counted.bucket) == pytest.approx(counted.num, rel=1e-6)
    top = memory.series("gengap/curvature/top_eigenvalue")[-1][1]
    assert counted.max == pytest.approx(torch.tensor(top).log10().item(), rel=1e-4)
    assert not any("spectrum" in key for _, row in memory.rows for key in row)
