"""Each row of docs/refusals.md: what raises before training, and what is one message while training goes on unchanged.

A new row is a line of the document and a case of the same situation here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import linear
from torchmetrics import classification as metrics

from lightning_gengap import GapMonitor
from lightning_gengap.errors import GapError
from lightning_gengap.monitor.trainer_facts import check_strategy
from tests.lightning_models import (
    CLASSES,
    AveragedValidation,
    TinyModel,
    ValidatedModel,
    careless,
    loader,
    put_measure,
    quiet_trainer,
    validation_loader,
)
from tests.tiny_predictors import tiny_monitor

PAGE = Path(__file__).parents[2] / "docs" / "refusals.md"
ROW = re.compile(r"^\| (?P<situation>[^|]+) \| `(?P<message>.+)` \| (?P<remedy>.+) \|$")


def rows(title: str) -> dict[str, str]:
    """The messages of one table of the page, by situation."""
    (table,) = [part for part in PAGE.read_text().split("\n## ") if part.startswith(title)]
    found = [match for match in map(ROW.match, table.splitlines()) if match]
    assert len(found) == table.count("\n|") - 2, "a row that is not: situation, `message`, what to do"
    return {match["situation"]: match["message"] for match in found}


def is_said(message: str, text: str) -> bool:
    """Whether the text begins with the message, where each … is anything."""
    return re.match(".*".join(map(re.escape, message.split("…"))), text, re.DOTALL) is not None


def fitting(*callbacks: Any, **arguments: Any) -> Callable[[], None]:
    """A training with validation that these arguments of the Trainer forbid."""
    trainer = quiet_trainer(tiny_monitor(), *callbacks, **arguments)
    return lambda: trainer.fit(ValidatedModel(), loader(), validation_loader())


def sharded() -> None:
    trainer: Any = SimpleNamespace(strategy=type("FSDPStrategy", (), {})())
    check_strategy(trainer)


RAISES: dict[str, Callable[[], Any]] = {
    "too few samples": lambda: GapMonitor(samples=19),
    "a budget that is no share": lambda: GapMonitor(budget=2),
    "an unknown verbosity": lambda: GapMonitor(verbosity="loud"),  # type: ignore[arg-type]
    "one name in place of a list": lambda: GapMonitor(measures="norm"),
    "an unknown predictor": lambda: GapMonitor("oracle"),
    "an unknown measure": lambda: GapMonitor(measures=["margins"]),
    "a strategy that shards weights": sharded,
    "a callback on a key that is never logged": lambda: fitting(EarlyStopping("gengap/predicted"))(),
}


class Jittered(TinyModel):
    """Its training set is augmented on the device."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + 0.01 * torch.randn_like(batch[0]), batch[1]


class Around(TinyModel):
    """A forward that is given, of a network that is given."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], net: nn.Module) -> None:
        super().__init__()
        self.run, self.body, self.frozen, self.head = run, net, nn.Identity(), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.run(self.body, images.flatten(1))


def two_layers() -> TinyModel:
    net = nn.Sequential(nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    return Around(lambda body, images: body(images), net)


class Logs(ValidatedModel):
    """Its validation logs what is given."""

    def __init__(self, figure: Callable[[Tensor, Tensor], Any] | None = None, metric: Any = None, **how: Any) -> None:
        super().__init__()
        self.figure, self.metric, self.how = figure, metric, how

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits, targets = self(batch[0]), batch[1]
        if self.metric is not None:
            self.metric.update(logits, targets)
        self.log("val_acc", self.metric if self.figure is None else self.figure(logits, targets), **self.how)


def share(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(1) == targets).float().mean()


class LogsTwo(Logs):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("val/acc", 0.5)


class LogsOnce(Logs):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.current_epoch == 0:
            super().validation_step(batch, batch_idx)


def failing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    put_measure(monkeypatch, name, careless())


# By situation: the model, arguments of the monitor, and what else the case needs.
GOES_ON: dict[str, tuple[Callable[[], LightningModule], dict[str, Any], dict[str, Any]]] = {
    "a checkpoint that looks during training": (
        TinyModel,
        {},
        {"reader": lambda: ModelCheckpoint(mkdtemp(), monitor="gengap/predicted_gap", every_n_train_steps=2)},
    ),
    "a stopper that looks after a validation that never comes": (
        TinyModel,
        {},
        {"reader": lambda: EarlyStopping("gengap/predicted_gap", patience=9, check_on_train_epoch_end=False)},
    ),
    "a training set that is augmented": (Jittered, {}, {}),
    "a network with few layers": (two_layers, {"verbosity": "normal"}, {}),
    "a network of functional layers": (
        lambda: Around(lambda body, images: linear(images, body.weight), nn.Linear(36, CLASSES, bias=False)),
        {"verbosity": "normal"},
        {},
    ),
    "a forward that detaches its inputs": (
        lambda: Around(lambda body, images: body(images.detach() * 1), nn.Linear(36, CLASSES)),
        {"verbosity": "normal"},
        {},
    ),
    "a feature that is undefined": (
        lambda: Around(lambda body, images: body(images), nn.Linear(36, CLASSES)),
        {},
        {},
    ),
    "a measurement that fails": (TinyModel, {}, {"breaks": "difficulty"}),
    "an optional measure that fails": (TinyModel, {"measures": ["norm"]}, {"breaks": "norm"}),
    "a validation without an accuracy": (TinyModel, {}, {"blind": True}),
    "two validation accuracies": (lambda: LogsTwo(share), {}, {}),
    "a top-k accuracy": (lambda: Logs(metric=metrics.MulticlassAccuracy(CLASSES, top_k=2)), {}, {}),
    "a metric that is no accuracy": (lambda: Logs(metric=metrics.MulticlassF1Score(CLASSES)), {}, {}),
    "an accuracy of other samples": (
        lambda: Logs(metric=metrics.MulticlassAccuracy(CLASSES, ignore_index=0)),
        {},
        {},
    ),
    "a number that is no share of the samples": (lambda: Logs(lambda *_: torch.tensor(0.4451)), {}, {}),
    "a number above 1": (lambda: Logs(lambda *_: torch.tensor(44.51)), {}, {}),
    "a validation of averaged weights": (lambda: Logs(share), {}, {"reader": AveragedValidation}),
    "a figure of an earlier epoch": (lambda: LogsOnce(share), {}, {}),
}


class Blind(TinyModel):
    """Validates without logging anything."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


def test_every_row_has_a_case_and_every_case_a_row():
    assert set(rows("What raises before training")) == set(RAISES)
    assert set(rows("What is said once")) == set(GOES_ON)


@pytest.mark.parametrize("situation", RAISES)
@pytest.mark.filterwarnings("ignore")
def test_it_raises_before_training(situation: str):
    with pytest.raises(GapError) as raised:
        RAISES[situation]()
    assert is_said(rows("What raises before training")[situation], str(raised.value))


def weights(model: LightningModule, *callbacks: Any, **arguments: Any) -> list[float]:
    torch.manual_seed(0)
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = quiet_trainer(*callbacks, max_epochs=3, enable_checkpointing=saves, **arguments)
    trainer.fit(model, loader(), validation_loader())
    assert trainer.current_epoch == 3
    return torch.cat([tensor.detach().flatten().double() for tensor in model.state_dict().values()]).tolist()


@pytest.mark.parametrize("situation", GOES_ON)
def test_it_is_said_once_and_training_goes_on_unchanged(
    situation: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    build, arguments, more = GOES_ON[situation]
    more = dict(more)
    reader, breaks = more.pop("reader", None), more.pop("breaks", None)
    build = Blind if more.pop("blind", False) else build
    if breaks is not None:
        failing(monkeypatch, breaks)
    readers = [] if reader is None else [reader()]
    torch.manual_seed(1)
    watched = build()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with_monitor = weights(watched, tiny_monitor(**arguments), *readers, **more)
    texts = [*(str(warning.message) for warning in caught), *caplog.messages]
    message = rows("What is said once")[situation]
    said = [text for text in texts if is_said(message, text)]
    assert len(said) == 1, texts
    assert "\n" not in said[0]
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert weights(build(), **more) == with_monitor
