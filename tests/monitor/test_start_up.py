"""What GapMonitor watches, says and measures before the first step, or once the first batches are copied."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap import GapMonitor
from tests.lightning_models import EpochValues, TinyModel, fitted, loader, put_measure, stream, watched
from tests.tiny_predictors import tiny_monitor


def test_the_start_up_is_not_charged_to_the_budget(monkeypatch: pytest.MonkeyPatch):
    clock, slept = time.perf_counter, [0.0]

    def slow(probe: object) -> dict[str, float]:
        slept.append(slept[-1] + 1e6)
        return {}

    monkeypatch.setattr(time, "perf_counter", lambda: clock() + slept[-1])
    put_measure(monkeypatch, "norm", slow, per_training=True)
    for data in (loader(), stream()):
        monitor = tiny_monitor(measures=["norm"])
        fitted(monitor, data=data)
        state = monitor.state_dict()["budget"]
        assert state["start_up"] > 1e6
        assert state["spent"] < 1e6


def test_augmentation_is_said_once_and_flagged():
    class Jittered(TinyModel):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            images, targets = batch
            return images + 0.01 * torch.randn_like(images), targets

    monitor = tiny_monitor()
    values, said = watched(monitor, model=Jittered())
    assert len(said) == 1
    assert "the training set is augmented. Pass probe_data=" in said[0]
    assert values("gengap/in_support") == [0, 0]
    assert monitor.prediction.outside == ("augmented_probe",)
    assert monitor.values["trained_on_copies"] == 1.0


def test_a_stream_is_copied_up_to_the_samples_asked_for(caplog: pytest.LogCaptureFixture):
    monitor, kept = tiny_monitor(samples=40), []

    class Spy(EpochValues):
        def on_train_batch_end(self, *others: Any) -> None:
            copies = monitor._state.first_batches
            kept.append(None if copies is None else sum(len(copy.targets) for copy in copies))

    fitted(monitor, Spy(), data=stream())
    assert kept == [16, 32, 48, 48, None, None, None, None]
    assert monitor.values["probe_samples"] == 48
    lines = [message for message in caplog.messages if "GapMonitor watches" in message]
    layers = "h1 = body, h2 = frozen.0, h3 = head:in"
    assert lines == [f"GapMonitor watches {layers} on 48 of an unknown number of training samples."]


def test_copies_of_a_stream_outlive_what_training_does_to_its_batches():
    class Consuming(TinyModel):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            batch[0].zero_()

    values = []
    for kind in (TinyModel, Consuming):
        torch.manual_seed(0)
        monitor = tiny_monitor()
        fitted(monitor, model=kind(), data=stream())
        values.append(monitor.values)
    assert values[0] == values[1]


def test_other_layers_can_be_watched(caplog: pytest.LogCaptureFixture):
    monitor = tiny_monitor(layers=["body.0", "frozen"], measures=["margin"])
    fitted(monitor)
    watched = "GapMonitor watches h1 = body.0, h2 = frozen on 64 of 64 training samples"
    assert f"{watched}; margin/h3* is absent: layers= names 2 of the three." in caplog.messages
    assert sum("GapMonitor" in message for message in caplog.messages) == 1
    assert {key.split("/")[1] for key in monitor.values if key.startswith("margin/")} >= {"h1", "h2"}
    assert "margin/h3/median" not in monitor.values


def test_a_purely_linear_model_has_no_hidden_layer():
    class Linear(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.body = self.frozen = nn.Sequential()
            self.head = nn.Linear(36, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(images.flatten(1))

    values, said = watched(tiny_monitor(), model=Linear())
    assert values("gengap/status") == [5, 5]  # no features to measure the difficulty on
    (message,) = said  # margins are not missed
    assert "always abstains, because it needs difficulty/ridge_accuracy, which is absent: there are no" in message
    assert watched(GapMonitor(predictor=None), model=Linear())[1] == []
