"""Tiny LightningModules, data they learn in an epoch, measures that fail, and a Trainer that says nothing."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torchmetrics
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyExperiment, Logger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap.measures import MEASURES
from lightning_gengap.measures.measure import Measure
from lightning_gengap.measures.values import Values
from lightning_gengap.monitor.namespaces import Callback as AnyCallback
from lightning_gengap.network.probe import Probe
from tests.streams import Stream

if TYPE_CHECKING:
    import pytest

CLASSES = 4
EXAMPLES = 64


def blobs(examples: int = EXAMPLES, classes: int = CLASSES, seed: int = 0) -> TensorDataset:
    """Images of 1 x 6 x 6 around one mean per class; a network learns them in an epoch."""
    generator = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(classes, 1, 6, 6, generator=torch.Generator().manual_seed(99))
    targets = torch.arange(examples) % classes
    return TensorDataset(means[targets] + torch.randn(examples, 1, 6, 6, generator=generator), targets)


def loader(examples: int = EXAMPLES, **arguments: Any) -> DataLoader[Any]:
    """Shuffled batches of 16."""
    return DataLoader(blobs(examples), **({"batch_size": 16, "shuffle": True} | arguments))


def stream(batch_size: int = 16) -> DataLoader[Any]:
    """Batches of the blobs that cannot be indexed."""
    return DataLoader(Stream(blobs()), batch_size=batch_size)


class Iterated:
    """Batches that can only be iterated."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __iter__(self) -> Any:
        return iter(self.source)

    def __len__(self) -> int:
        return len(self.source)


class TinyModel(LightningModule):
    """Convolution, batch norm, dropout, and a part that the user keeps in eval mode; logs its own metric."""

    def __init__(self, learning_rate: float = 0.02, smoothing: float = 0.0, classes: int = CLASSES) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten())
        self.frozen = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        self.head = nn.Linear(16, classes)
        self.train_metric = torchmetrics.classification.MulticlassAccuracy(classes)
        self.learning_rate, self.smoothing = learning_rate, smoothing

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.frozen(self.body(images))))

    def on_train_start(self) -> None:
        self.frozen.eval()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch
        logits = self(images)
        self.train_metric(logits, targets)
        self.log("user_train_acc", self.train_metric, on_step=False, on_epoch=True)
        loss = cross_entropy(logits, targets, label_smoothing=self.smoothing)
        self.log("user_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), self.learning_rate)


class ValidatedModel(TinyModel):
    """The same, logging a validation accuracy under the usual name."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())


class Stepping(TinyModel):
    """The same, with a training step that is given."""

    def __init__(self, step: Callable[[TinyModel, Any], Any]) -> None:
        super().__init__()
        self.step = step

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.step(self, batch)


class ManualModel(TinyModel):
    """The same, stepping two optimizers by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        body = [*self.body.parameters(), *self.frozen.parameters()]
        return torch.optim.Adam(body, self.learning_rate), torch.optim.SGD(self.head.parameters(), self.learning_rate)


class MemoryLogger(Logger):
    """Keeps every scalar as (step, values)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> str:
        return "0"

    @property
    def experiment(self) -> Any:
        return DummyExperiment()

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Not kept."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def series(self, key: str) -> list[tuple[int | None, float]]:
        """(step, value) of one key, in order."""
        return [(step, row[key]) for step, row in self.rows if key in row]


class EpochValues(AnyCallback):
    """What any later reader sees at the end of each epoch: the metrics so far, without Lightning's own."""

    trainer: Trainer

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows.append({key: float(value) for key, value in trainer.callback_metrics.items()})

    def __call__(self, key: str) -> list[float]:
        return [row[key] for row in self.rows]


class SeededSteps(Callback):
    """Makes a step depend on its number and the weights alone, so that a resumed run can equal a whole one."""

    def on_train_batch_start(self, trainer: Trainer, *others: Any) -> None:
        torch.manual_seed(trainer.global_step)


def careless(error: Exception | None = None) -> Callable[[Probe], Values]:
    """A measure that fails after it has done what a careless measure might do."""

    def fail(probe: Probe) -> Values:
        torch.rand(3)
        probe.model.train()
        probe.logits_on(probe.batches[0].content, len(probe.batches[0].targets)).sum().backward()
        raise RuntimeError("broken measure") if error is None else error

    return fail


class Counting:
    """A measure that gives the number of its calls under one key, and fails in some of them."""

    def __init__(
        self, key: str, fails: Callable[[int], bool] = lambda call: False, error: Exception | None = None
    ) -> None:
        self.key, self.fails, self.error, self.calls = key.removeprefix("gengap/"), fails, error, 0

    def __call__(self, probe: Probe) -> Values:
        self.calls += 1
        if self.fails(self.calls):
            raise self.error or RuntimeError(f"broken in call {self.calls}")
        return {self.key: float(self.calls)}


def put_measure(
    monkeypatch: pytest.MonkeyPatch, name: str, function: Callable[[Any], Values], forwards: float = 1.0, **more: Any
) -> None:
    """Let this function be the measure of that name."""
    monkeypatch.setitem(MEASURES, name, Measure(function, {}, forwards, **more))


class AveragedValidation(Callback):
    """Validates with other weights, as callbacks that average do, and puts the trained ones back."""

    def __init__(self, with_epoch_hooks: bool = True) -> None:
        kind = "validation_epoch" if with_epoch_hooks else "validation"
        setattr(self, f"on_{kind}_start", self._put)
        setattr(self, f"on_{kind}_end", self._put_back)

    def _put(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.kept = [parameter.detach().clone() for parameter in pl_module.parameters()]
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.mul_(0.5)

    def _put_back(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with torch.no_grad():
            for parameter, kept in zip(pl_module.parameters(), self.kept, strict=True):
                parameter.copy_(kept)


QUIET: dict[str, Any] = {
    "accelerator": os.environ.get("GENGAP_ACCELERATOR", "cpu"),
    "devices": 1,
    "max_epochs": 2,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
}


def quiet_trainer(*callbacks: Callback, **arguments: Any) -> Trainer:
    """Two epochs, on the CPU unless GENGAP_ACCELERATOR names another; nothing is printed or written unless asked."""
    return Trainer(callbacks=list(callbacks), **(QUIET | arguments))


def validation_loader() -> DataLoader[Any]:
    """Other draws of the same blobs."""
    return DataLoader(blobs(32, seed=1), batch_size=16)


def fitted(
    *callbacks: Callback,
    model: LightningModule | None = None,
    data: Any = None,
    validate: bool = False,
    ckpt_path: Path | None = None,
    **arguments: Any,
) -> EpochValues:
    """Fit and return what was logged by epoch; with `validate` the model logs `val_acc`."""
    torch.manual_seed(0)
    values = EpochValues()
    values.trainer = quiet_trainer(*callbacks, values, **arguments)
    model = model or (ValidatedModel() if validate else TinyModel())
    data, held_out = loader() if data is None else data, validation_loader() if validate else None
    values.trainer.fit(model, data, held_out, ckpt_path=ckpt_path)
    return values


def saved(folder: Path, *callbacks: Callback, epochs: int, **arguments: Any) -> Path:
    """Train, save, and return the path of the checkpoint."""
    values = fitted(*callbacks, SeededSteps(), data=loader(shuffle=False), max_epochs=epochs, **arguments)
    values.trainer.save_checkpoint(folder / "saved.ckpt")
    return folder / "saved.ckpt"


def resumed(path: Path, *callbacks: Callback, epochs: int, **arguments: Any) -> EpochValues:
    """Go on from the checkpoint up to this epoch, and return what was logged by epoch."""
    data = loader(shuffle=False)
    return fitted(*callbacks, SeededSteps(), data=data, max_epochs=epochs, ckpt_path=path, **arguments)


def watched(*callbacks: Callback, **arguments: Any) -> tuple[EpochValues, list[str]]:
    """Values by epoch, and what the monitor warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = fitted(*callbacks, **arguments)
    return values, [str(warning.message) for warning in caught if "GapMonitor" in str(warning.message)]
