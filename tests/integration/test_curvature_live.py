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
from lightning_gengap.errors import ConfigurationError
from lightning_gengap.measurement import Measurer
from lightning_gengap.samples.batches import read_batch
from lightning_gengap.samples.reader import Samples
from tests.lightning_models import ManualModel, MemoryLogger, TinyModel, blobs, fitted, loader, quiet_trainer, watched
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


def live(model: TinyModel, **more: Any) -> tuple[float, ...]:
    """The ridge's keys after one epoch."""
    watching = monitor()
    fitted(watching, model=model, max_epochs=1, **more)
    return tuple(watching.values[f"curvature/{name}"] for name in KEYS)


def test_coupled_decay_is_read_from_the_trainers_optimizer() -> None:
    rank, ridge, assumed, varies = live(Decayed(lambda model: optim.SGD(model.parameters(), 0.02, weight_decay=4e-3)))
    assert (ridge, assumed, varies) == (4e-3, 0, 0)
    assert rank > 0


def test_manual_optimization_has_the_decay_of_its_optimizer() -> None:
    assert live(Manual())[1:] == (2e-3, 0, 0)


def test_adamw_has_its_metric_as_a_standalone_measurement_with_the_optimizer_has() -> None:
    model = Decayed(lambda model: optim.AdamW(model.parameters(), 0.02, weight_decay=0.1))
    watching = monitor()
    fitted(watching, model=model, max_epochs=1)
    assert (watching.values["curvature/lambda_varies"], watching.values["curvature/lambda_assumed"]) == (1, 0)
    again = measure(model, blobs(), ["soft_rank"], weight_decay=model.trainer.optimizers[0])
    for name in KEYS:  # the samples come in another order, and meet other random signs
        spread = 0.2 if name == "soft_rank" else 1e-6
        assert again[f"curvature/{name}"] == pytest.approx(watching.values[f"curvature/{name}"], rel=spread)


def test_two_optimizers_with_decay_are_noted_and_assumed() -> None:
    class Two(ManualModel):
        def configure_optimizers(self) -> Any:
            return [optim.SGD(part.parameters(), 0.02, weight_decay=1e-3) for part in (self.body, self.head)]

    watching = monitor()
    with pytest.warns(UserWarning, match="weight decay is absent: there are 2 optimizers"):
        fitted(watching, model=Two(), max_epochs=1)
    assert watching.values["curvature/lambda_assumed"] == 1


def test_a_strange_optimizer_is_said_once_and_training_goes_on() -> None:
    model = Decayed(lambda model: Stranger(model.parameters(), 0.02, weight_decay=1e-3))
    watching = monitor()
    _, warnings = watched(watching, model=model, max_epochs=2)
    assert len([warning for warning in warnings if "how that of Stranger acts is not known" in warning]) == 1
    assert watching.values["curvature/lambda_assumed"] == 1


def test_a_resumed_run_reads_the_same_ridge(tmp_path: Path) -> None:
    def adamw() -> Decayed:
        return Decayed(lambda model: optim.AdamW(model.parameters(), 0.02, weight_decay=0.1))

    first = monitor()
    torch.manual_seed(0)
    trainer = quiet_trainer(first, max_epochs=1)
    trainer.fit(adamw(), loader(shuffle=False))
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    torch.load(tmp_path / "saved.ckpt", weights_only=True)  # nothing but tensors and primitives
    restored = adamw()
    trainer = quiet_trainer(monitor(), max_epochs=2, limit_train_batches=1)
    trainer.fit(restored, loader(shuffle=False), ckpt_path=tmp_path / "saved.ckpt")
    values = trainer.callbacks[0].values
    assert values["curvature/lambda_varies"] == 1
    assert values["curvature/lambda"] == pytest.approx(first.values["curvature/lambda"], rel=0.5)


def test_watching_the_curvature_changes_neither_weights_nor_optimizer() -> None:
    states = []
    for callbacks in ([], [monitor()]):
        model = Decayed(lambda model: optim.AdamW(model.parameters(), 0.02, weight_decay=0.1))
        torch.manual_seed(0)
        model.load_state_dict(Decayed(None).state_dict())
        fitted(*callbacks, model=model, max_epochs=1)
        states.append((model.state_dict(), model.trainer.optimizers[0].state_dict()["state"]))
    (weights, moments), (watched_weights, watched_moments) = states
    assert all(torch.equal(value, watched_weights[name]) for name, value in weights.items())
    assert moments.keys() == watched_moments.keys()
    for key, state in moments.items():
        assert all(torch.equal(value, watched_moments[key][name]) for name, value in state.items())


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


def test_an_observation_has_the_spectrum_wherever_the_soft_rank_is_asked_for() -> None:
    model, targets = TinyModel(), torch.arange(64) % 4
    samples = Samples((read_batch((blobs()[:][0], targets)),), 64, augmented=False)
    measurer = Measurer.of(model, samples)
    assert measurer.measure(model, ["fit"]).figures == {}
    needed, further = measurer.measure(model, ["soft_rank"]), measurer.measure(model, ["fit"], ["soft_rank"])
    assert "curvature/spectrum" in needed.figures
    assert "curvature/spectrum" in further.figures
    assert torch.equal(
        needed.figures["curvature/spectrum"].eigenvalues, further.figures["curvature/spectrum"].eigenvalues
    )
    assert float(needed.figures["curvature/spectrum"].eigenvalues.max()) == needed.values["curvature/top_eigenvalue"]


def test_a_standalone_measurement_takes_the_stated_decay() -> None:
    model = TinyModel()
    values = measure(model, blobs(), ["soft_rank"], weight_decay=0.3)
    assert (values["curvature/lambda"], values["curvature/lambda_assumed"]) == (0.3, 0)


@pytest.mark.parametrize("decay", [-1.0, float("nan"), float("inf")])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ConfigurationError, match="weight_decay: got"):
        measure(TinyModel(), blobs(), ["fit"], weight_decay=decay)
