"""What fails after the first step is said once, and training completes with the last values held."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap.measures import MEASURES, Measure
from tests.lightning_models import Iterated, Stream, TinyModel, blobs, fitted, loader, watched
from tests.predictors import tiny_monitor


def broken(probe: object) -> dict[str, float]:
    raise RuntimeError("broken measure")


class BreaksLater:
    """A measure that works, then fails in some calls."""

    def __init__(self, fails: Callable[[int], bool]) -> None:
        self.fails, self.calls = fails, 0

    def __call__(self, probe: object) -> dict[str, float]:
        self.calls += 1
        if self.fails(self.calls):
            raise RuntimeError(f"broken in call {self.calls}")
        return {}


def test_a_measure_that_breaks_later_holds_the_values_and_is_switched_off(monkeypatch: pytest.MonkeyPatch):
    measure = BreaksLater(lambda call: call > 2)
    monkeypatch.setitem(MEASURES, "norm", Measure(measure, 1))
    values, said = watched(tiny_monitor(measures=["norm"]), max_epochs=7)
    assert values("gengap/status") == [0, 0, 2, 2, 2, 4, 4]
    assert len(set(values("gengap/predicted_gap")[1:])) == 1
    assert all(math.isfinite(value) for row in values.rows for value in row.values())
    assert measure.calls == 5
    (message,) = said
    assert "could not measure in epoch 2: RuntimeError: broken in call 3" in message
    assert "GapMonitor(on_error='raise')" in message


def test_failures_that_are_not_in_a_row_do_not_switch_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(MEASURES, "norm", Measure(BreaksLater(lambda call: call % 2 == 0), 1))
    values, said = watched(tiny_monitor(measures=["norm"]), max_epochs=8)
    assert values("gengap/status") == [0, 2] * 4
    assert len(said) == 4


@pytest.mark.parametrize("data", [loader, lambda: DataLoader(Stream(), batch_size=16)], ids=["indexed", "stream"])
def test_a_difficulty_that_fails_is_said_once_and_training_completes(
    monkeypatch: pytest.MonkeyPatch, data: Callable[[], Any]
):
    monkeypatch.setitem(MEASURES, "difficulty", replace(MEASURES["difficulty"], function=broken))
    values, said = watched(tiny_monitor(), data=data(), max_epochs=5)
    assert values("gengap/status") == [2, 2, 2, 4, 4]
    assert all(math.isfinite(value) for row in values.rows for value in row.values())
    (message,) = said
    assert "could not measure the difficulty of the task: RuntimeError: broken measure" in message


def test_on_error_raise_shows_the_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(MEASURES, "norm", Measure(broken, 1))
    with pytest.raises(RuntimeError, match="broken measure"):
        fitted(tiny_monitor(measures=["norm"], on_error="raise"))
    monkeypatch.setitem(MEASURES, "norm", Measure(broken, 1, once=True))
    with pytest.raises(RuntimeError, match="broken measure"):
        fitted(tiny_monitor(measures=["norm"], on_error="raise"))


class Diverging(TinyModel):
    """NaN from the second epoch on, in the loss as well."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            with torch.no_grad():
                self.head.weight.fill_(torch.nan)


def test_divergence_holds_the_last_finite_values():
    values, said = watched(tiny_monitor(), model=Diverging(), max_epochs=3)
    assert values("gengap/status") == [0, 2, 2]
    ours = [value for row in values.rows for key, value in row.items() if key.startswith("gengap/")]
    assert all(math.isfinite(value) for value in ours)
    (message,) = said
    assert "LogitsError: model output: got NaN or infinity on the monitored samples" in message


def test_a_batch_that_differs_later_in_a_stream_is_no_error():
    class Changing(TinyModel):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return cross_entropy(self(batch[0]), batch[1])

    batches = [tuple(batch) for batch in loader()]
    odd = [*batches[:2], (*batches[2], "file names"), batches[3]]
    values, said = watched(tiny_monitor(), model=Changing(), data=Iterated(odd))
    assert values("gengap/status") == [0, 0]
    assert len(said) == 1
    assert "could not measure while copying the first batches: BatchError" in said[0]


def test_a_stream_that_stays_in_one_class_fails_softly():
    images = blobs().tensors[0]
    data = DataLoader(TensorDataset(images, torch.zeros(64, dtype=torch.long)), batch_size=16)
    values, said = watched(tiny_monitor(), data=Iterated(data))
    assert values("gengap/status") == [2, 2]
    assert len(said) == 1
    assert "all of class 0; expected two classes or more" in said[0]
