"""Resuming from a checkpoint continues the run that was saved."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lightning_gengap.measures import MEASURES
from tests.lightning_models import SeededSteps, fitted, loader, resumed, saved
from tests.tiny_predictors import ALWAYS, tiny_monitor

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent")  # small samples lack some measures


def monitor_state(path: Path) -> dict[str, Any]:
    """What the checkpoint keeps of the monitor; loading fails if it is more than tensors and primitives."""
    callbacks = torch.load(path, weights_only=True)["callbacks"]
    (state,) = [state for key, state in callbacks.items() if key.startswith("GapMonitor")]
    return dict(state)


def test_a_resumed_run_continues_the_same_curve(tmp_path: Path):
    expected = fitted(tiny_monitor(verbosity="full"), SeededSteps(), data=loader(shuffle=False), max_epochs=4)
    path = saved(tmp_path, tiny_monitor(verbosity="full"), epochs=2)
    continued = resumed(path, tiny_monitor(verbosity="full"), epochs=4)
    for now, then in zip(continued.rows, expected.rows[2:], strict=True):
        assert now.pop("gengap/overhead") >= 0
        assert then.pop("gengap/overhead") >= 0
        assert now == pytest.approx(then, rel=1e-5, abs=1e-6)


def test_the_checkpoint_can_be_loaded_as_weights_only(tmp_path: Path):
    path = saved(tmp_path, tiny_monitor(), epochs=1)
    initial = monitor_state(path)["memory"]["initial_state"]
    assert all(isinstance(tensor, Tensor) and not tensor.requires_grad for tensor in initial.values())
    assert len(resumed(path, tiny_monitor(), epochs=2).rows) == 1


def test_resuming_keeps_initial_weights_difficulty_and_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = saved(tmp_path, tiny_monitor(), epochs=2)
    state = monitor_state(path)
    assert state["training_loss"]["sums"][1] == 8

    def measured_again(probe: object) -> dict[str, float]:
        raise AssertionError("difficulty is measured once per training")

    monkeypatch.setitem(MEASURES, "difficulty", replace(MEASURES["difficulty"], function=measured_again))
    monitor = tiny_monitor(on_error="raise")
    resumed(path, monitor, epochs=3)
    after = monitor.state_dict()
    assert after["memory"]["per_training"] == state["memory"]["per_training"]
    assert after["training_loss"]["sums"][1] == 12
    assert after["budget"]["trained"] > state["budget"]["trained"]
    for name, tensor in state["memory"]["initial_state"].items():
        assert torch.equal(after["memory"]["initial_state"][name], tensor)


def test_the_worst_values_so_far_survive_a_resume(tmp_path: Path):
    path = saved(tmp_path, tiny_monitor(every_n_epochs=5), epochs=2)
    values = resumed(path, tiny_monitor(every_n_epochs=5), epochs=4)
    assert values("gengap/status") == [1, 0]
    extremes = monitor_state(path)["readout"]["extremes"]
    assert values("gengap/predicted_gap")[0] == pytest.approx(max(extremes["predicted_gap"]))
    assert values("gengap/predicted_test_accuracy")[0] == pytest.approx(min(extremes["predicted_test_accuracy"]))


def test_resuming_without_the_monitors_state_warns_and_abstains(tmp_path: Path):
    path = saved(tmp_path, epochs=1)
    with (
        pytest.warns(UserWarning, match="GapMonitor has no initial weights"),
        pytest.warns(UserWarning, match="GapMonitor: the prediction always abstains, because it needs difficulty/"),
    ):
        values = resumed(path, tiny_monitor(), epochs=2)
    assert values("gengap/status") == [5]
    assert all(math.isfinite(value) for value in values.rows[0].values())
    assert values.rows[0].keys() >= ALWAYS


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_resuming_in_mid_epoch_checks_the_loss_anew(tmp_path: Path):
    class SaveSecondStep(Callback):
        def on_train_batch_end(self, trainer: Trainer, *others: Any) -> None:
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    fitted(tiny_monitor(), SaveSecondStep(), max_epochs=1)
    monitor = tiny_monitor()
    values = resumed(tmp_path / "middle.ckpt", monitor, epochs=2)
    assert values("gengap/status") == [0, 0]
    assert "speed/train_loss_mean" in monitor.values
