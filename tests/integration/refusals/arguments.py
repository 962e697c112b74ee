"""What raises before training: arguments, predictor files, and callbacks that would end the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping

from lightning_gengap import GapEarlyStopping, GapMonitor
from lightning_gengap.monitor.trainer_facts import check_strategy
from lightning_gengap.predictors.estimate import EstimatedAccuracy
from lightning_gengap.predictors.files import MOST_BYTES, dumps
from tests.lightning_models import ValidatedModel, blobs, loader, quiet_trainer, validation_loader
from tests.tiny_predictors import tiny_monitor, tiny_predictor


def fitting(*callbacks: Any, **arguments: Any) -> None:
    """A training with validation that these callbacks forbid."""
    trainer = quiet_trainer(*callbacks, **arguments)
    trainer.fit(ValidatedModel(), loader(), validation_loader())


def sharded() -> None:
    trainer: Any = SimpleNamespace(strategy=type("FSDPStrategy", (), {})())
    check_strategy(trainer)


def of_the_other_package() -> None:
    other = pytest.importorskip("pytorch_lightning.callbacks")
    fitting(other.EarlyStopping("gengap/predicted_gap"), tiny_monitor())


def file_of(content: bytes) -> None:
    """Load a predictor file with this content."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mine.json"
        path.write_bytes(content)
        GapMonitor(path)


def changed(**changes: Any) -> bytes:
    """A predictor file that was changed by hand."""
    return json.dumps({**json.loads(dumps(tiny_predictor())), **changes}).encode()


def forbidden() -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        GapMonitor(Path(__file__))


RAISES: dict[str, Callable[[], Any]] = {
    "too few samples": lambda: GapMonitor(samples=19),
    "an argument of another type": lambda: GapMonitor(every_n_epochs=None),  # type: ignore[arg-type]
    "a number of samples that is no whole one": lambda: GapMonitor(samples=1e3),  # type: ignore[arg-type]
    "a measurement every 0 epochs": lambda: GapMonitor(every_n_epochs=0),
    "a measurement every 0 steps": lambda: GapMonitor(every_n_train_steps=0),
    "steps and epochs both": lambda: GapMonitor(every_n_train_steps=100, every_n_epochs=2),
    "a budget that is no share": lambda: GapMonitor(budget=2),
    "an unknown verbosity": lambda: GapMonitor(verbosity="loud"),  # type: ignore[arg-type]
    "an unknown way to meet failures": lambda: GapMonitor(on_error="ignore"),  # type: ignore[arg-type]
    "one name in place of a list": lambda: GapMonitor(measures="norm"),
    "an unknown predictor": lambda: GapMonitor("oracle"),
    "a predictor of another kind": lambda: GapMonitor(7),  # type: ignore[arg-type]
    "a predictor file that was changed": lambda: file_of(changed(intercept=0.2)),
    "a predictor file of another format": lambda: file_of(changed(format=1)),
    "a predictor file that is cut off": lambda: file_of(changed()[:-9]),
    "a predictor file of other bytes": lambda: file_of(b"\xff\xfe\x00"),
    "a predictor file that is too large": lambda: file_of(b" " * (MOST_BYTES + 1)),
    "a predictor file that cannot be read": forbidden,
    "a key that is no text": lambda: GapMonitor(validation_accuracy=3),  # type: ignore[arg-type]
    "a forward that is no function": lambda: GapMonitor(forward="forward"),  # type: ignore[arg-type]
    "a target that is no function": lambda: GapMonitor(target=1),  # type: ignore[arg-type]
    "a seed that is no whole number": lambda: GapMonitor(seed=0.5),  # type: ignore[arg-type]
    "too many layers": lambda: GapMonitor(layers=["a", "b", "c", "d"]),
    "probe data of another kind": lambda: GapMonitor(probe_data=7),
    "held-out data of another kind": lambda: GapMonitor(held_out=7),
    "too few held-out samples": lambda: GapMonitor(held_out=blobs(9)),
    "held-out samples without a predictor": lambda: GapMonitor(predictor=None, held_out=blobs(20)),
    "a data set that the predictor was not fitted on": lambda: GapMonitor(source="imagenet"),
    "evidence that is no list": lambda: GapMonitor(evidence=0.1),  # type: ignore[arg-type]
    "evidence without a list": lambda: GapMonitor(evidence=EstimatedAccuracy(0.7, 0.02)),
    "evidence without a number of samples": lambda: tiny_monitor(evidence=[({}, 0.1)]),
    "an estimated accuracy in percent": lambda: tiny_monitor(evidence=[EstimatedAccuracy(70.0, 2.0)]),
    "an unknown measure": lambda: GapMonitor(measures=["margins"]),
    "a strategy that shards weights": sharded,
    "a callback on a key that is never logged": lambda: fitting(tiny_monitor(), EarlyStopping("gengap/predicted")),
    "a stopper of the other Lightning package, listed before the monitor": of_the_other_package,
    "GapEarlyStopping without GapMonitor": lambda: fitting(GapEarlyStopping()),
    "a largest gap without a predictor": lambda: fitting(
        tiny_monitor(predictor=None), GapEarlyStopping("gengap/train_accuracy", max_gap=0.1)
    ),
    "a largest gap that is no fraction": lambda: GapEarlyStopping(max_gap=10),
}
