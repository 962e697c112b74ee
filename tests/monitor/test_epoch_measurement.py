"""What fails after the first step is said once, and training completes without fresh values."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapMonitor, measure
from lightning_gengap.errors import MeasureError
from lightning_gengap.measures import MEASURES
from lightning_gengap.network.probe import Probe
from tests.each_data import each_data
from tests.lightning_models import (
    Counting,
    Iterated,
    Stepping,
    TinyModel,
    blobs,
    careless,
    fitted,
    loader,
    put_measure,
    watched,
)
from tests.tiny_predictors import tiny_monitor, tiny_predictor

NORM = "gengap/norm/log_product_spectral"


def needing_norm(**changes: Any) -> GapMonitor:
    return tiny_monitor(predictor=tiny_predictor(measures=("difficulty", "norm")), **changes)


FAILURES: dict[str, tuple[bool, bool, Callable[[int], bool], list[int], list[int], int]] = {
    # needed, per training, fails in a call; status and value by epoch; calls
    "needed, later": (True, False, lambda call: call > 2, [0, 0, 2, 2, 2, 4, 4], [1, 2, 2, 2, 2, 2, 2], 5),
    "needed, never in a row": (True, False, lambda call: call % 2 == 0, [0, 2] * 4, [1, 1, 3, 3, 5, 5, 7, 7], 8),
    "optional, later": (False, False, lambda call: call in (2, 3, 5), [0] * 7, [1, 1, 1, 4, 4, 6, 7], 7),
    "optional, of the task": (False, True, lambda call: True, [0] * 4, [], 3),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_measure_that_fails_holds_its_values_and_is_tried_no_more_after_three_failures(
    monkeypatch: pytest.MonkeyPatch, kind: str
):
    needed, per_training, fails, statuses, expected, calls = FAILURES[kind]
    measure = Counting(NORM, fails)
    put_measure(monkeypatch, "norm", measure, per_training=per_training)
    monitor = needing_norm(measures=["norm"]) if needed else tiny_monitor(measures=["norm"])
    values, said = watched(monitor, max_epochs=len(statuses))
    assert values("gengap/status") == statuses
    assert [row[NORM] for row in values.rows if NORM in row] == expected
    assert all(math.isfinite(value) for row in values.rows for value in row.values())
    measured_anew = statuses.count(0)
    assert len(set(values("gengap/predicted_gap"))) == measured_anew
    assert measure.calls == calls
    assert len(said) == (4 if kind == "needed, never in a row" else 1)
    if kind == "needed, later":
        words = "could not measure in epoch 2: MeasureError: measure 'norm': got RuntimeError: broken in call 3;"
        assert words in said[0]
        assert "GapMonitor(on_error='raise')" in said[0]


ERRORS = [
    (RuntimeError("odd"), "RuntimeError: odd"),
    (MemoryError("64 TiB"), "MemoryError: 64 TiB; expected its values. Use fewer samples."),
    (torch.cuda.OutOfMemoryError("CUDA out of memory"), "CUDA out of memory; expected its values. Use fewer samples."),
    (ArithmeticError("odd"), "ArithmeticError: odd"),
]


@pytest.mark.parametrize(("error", "words"), ERRORS)
def test_an_optional_measure_that_always_fails_is_absent_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
):
    measure = Counting(NORM, lambda call: True, error)
    put_measure(monkeypatch, "norm", measure)
    expected = fitted(tiny_monitor(measures=["path_norm"]), max_epochs=5)
    values, said = watched(tiny_monitor(measures=["norm", "path_norm"]), max_epochs=5)
    for now, then in zip(values.rows, expected.rows, strict=True):
        assert now | {"gengap/overhead": 0.0} == then | {"gengap/overhead": 0.0}
    assert "gengap/path_norm/log" in values.rows[0]
    assert measure.calls == 3
    (message,) = said
    assert "GapMonitor could not measure norm in epoch 0: measure 'norm': got " in message
    assert words in message
    assert "after 3 failures in a row it is no longer tried" in message


def test_what_a_failed_measure_had_allocated_is_free_before_the_next_step(monkeypatch: pytest.MonkeyPatch):
    kept: list[weakref.ref[Tensor]] = []

    def greedy(probe: Probe) -> dict[str, float]:
        block = torch.ones(64)
        kept.append(weakref.ref(block))
        probe.cached(lambda shared: kept.append(weakref.ref(tensor := torch.ones(8))) or tensor)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    class Alive(TinyModel):
        def on_train_epoch_start(self) -> None:
            alive.append(sum(reference() is not None for reference in kept))

    for monitor in (tiny_monitor(measures=["norm"]), needing_norm()):
        kept.clear()
        alive: list[int] = []
        put_measure(monkeypatch, "norm", greedy)
        gc.disable()
        try:
            watched(monitor, model=Alive(), max_epochs=3)
        finally:
            gc.enable()
        assert len(kept) == 6
        assert alive == [0, 0, 0]


@each_data
def test_a_difficulty_that_fails_is_said_once_and_training_completes(
    monkeypatch: pytest.MonkeyPatch, data: Callable[[], Any]
):
    monkeypatch.setitem(MEASURES, "difficulty", replace(MEASURES["difficulty"], function=careless()))
    values, said = watched(tiny_monitor(), data=data(), max_epochs=5)
    assert values("gengap/status") == [2, 2, 2, 4, 4]
    assert all(math.isfinite(value) for row in values.rows for value in row.values())
    (message,) = said
    expected = "the difficulty of the task: MeasureError: measure 'difficulty': got RuntimeError: broken measure;"
    assert f"could not measure {expected}" in message


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("needed", [False, True])
def test_on_error_raise_shows_the_measure_and_the_cause(monkeypatch: pytest.MonkeyPatch, once: bool, needed: bool):
    put_measure(monkeypatch, "norm", careless(), per_training=once)
    monitor = needing_norm(on_error="raise") if needed else tiny_monitor(measures=["norm"], on_error="raise")
    with pytest.raises(MeasureError, match="measure 'norm': got RuntimeError: broken measure") as caught:
        fitted(monitor)
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(("error", "words"), ERRORS)
def test_without_a_trainer_a_measure_that_fails_is_raised_by_name(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
):
    put_measure(monkeypatch, "norm", Counting(NORM, lambda call: True, error))
    model = TinyModel().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(MeasureError, match=f"measure 'norm': got .*{words}") as caught:
        measure(model, loader(), ["fit", "norm"])
    assert caught.value.__cause__ is error
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class OutOfMemory(TinyModel):
    """Has memory to train, not to run in eval mode."""

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(images)


def test_without_a_trainer_want_of_memory_says_what_was_being_done():
    words = "got OutOfMemoryError: CUDA out of memory.* Use fewer samples."
    with pytest.raises(MeasureError, match=f"the first forward in eval mode: {words}") as caught:
        measure(OutOfMemory(), loader(), ["fit"])
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)

    def batches() -> Iterator[Any]:
        yield from loader()
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(MeasureError, match=f"reading the samples: {words}"):
        measure(TinyModel(), batches(), ["fit"])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):  # any other is the user's own
        measure(TinyModel(), [(torch.zeros(8, 1, 9, 9), torch.arange(8) % 4)], ["fit"])


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
    changing = Stepping(lambda self, batch: cross_entropy(self(batch[0]), batch[1]))
    batches = [tuple(batch) for batch in loader()]
    odd = [*batches[:2], (*batches[2], "file names"), batches[3]]
    values, said = watched(tiny_monitor(), model=changing, data=Iterated(odd))
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
