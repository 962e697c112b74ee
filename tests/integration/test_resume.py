"""Resuming from a checkpoint continues the run that was saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap.measures import MEASURES
from lightning_gengap.measures.values import Values
from lightning_gengap.monitor.saved_state import to_primitives
from lightning_gengap.network.probe import Probe
from lightning_gengap.predictors.observations import Observation
from tests.lightning_models import SeededSteps, blobs, fitted, loader, resumed, saved, watched
from tests.tiny_predictors import ALWAYS, tiny_monitor, tiny_predictor

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent")  # small samples lack some measures
OLD = Observation(0.5, 0.7, 0.1, samples=40)


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


RIDGE = "difficulty/ridge_accuracy"


def edited(path: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """The checkpoint with the monitor's state changed in place, or exchanged for what `edit` returns."""
    checkpoint = torch.load(path, weights_only=True)
    (key,) = [key for key in checkpoint["callbacks"] if key.startswith("GapMonitor")]
    checkpoint["callbacks"][key] = edit(checkpoint["callbacks"][key]) or checkpoint["callbacks"][key]
    torch.save(checkpoint, path)
    return path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the samples of which the difficulty was measured, one entry a time."""
    sizes: list[int] = []
    original = MEASURES["difficulty"]

    def difficulty(probe: Probe) -> Values:
        sizes.append(len(probe.targets))
        return original.function(probe)

    monkeypatch.setitem(MEASURES, "difficulty", replace(original, function=difficulty))
    return sizes


def relabelled() -> DataLoader[Any]:
    inputs, targets = blobs().tensors
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(inputs, targets[order]), batch_size=16)


@pytest.mark.parametrize(
    "data",
    [relabelled, lambda: loader(48), lambda: DataLoader(blobs(seed=3), batch_size=16)],
    ids=["labels", "length", "inputs"],
)
def test_resuming_on_other_data_measures_anew(
    tmp_path: Path, data: Callable[[], DataLoader[Any]], measured: list[int], caplog: Any
):
    path = saved(tmp_path, tiny_monitor(), epochs=2)
    before = monitor_state(edited(path, lambda state: {**state, "observations": [to_primitives(OLD)]}))
    monitor = tiny_monitor(on_error="raise")
    fitted(monitor, data=data(), max_epochs=3, ckpt_path=path)
    after = monitor.state_dict()
    assert after["training_loss"]["sums"][1] == len(data())
    assert after["observations"] == []
    assert measured == [64, len(data().dataset)]
    assert all(
        torch.equal(value, after["memory"]["initial_state"][name])
        for name, value in before["memory"]["initial_state"].items()
    )
    assert len([message for message in caplog.messages if "starts anew, because the training data" in message]) == 1


CHANGES: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "samples": {"samples": 40},
    "layers": {"layers": ["body.0"]},
    "forward": {"forward": lambda module, batch: module(0.8 * batch[0])},
    "keys": {"verbosity": "full"},
}


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.filterwarnings("ignore:Casting complex values to real")
def test_resuming_with_other_arguments_measures_the_difficulty_anew_and_goes_on(
    tmp_path: Path, kind: str, measured: list[int]
):
    path = saved(tmp_path, tiny_monitor(samples=50), epochs=2)
    monitor = tiny_monitor(**({"samples": 50} | CHANGES[kind]))
    values = resumed(path, monitor, epochs=3)
    assert measured == [50, 40 if kind == "samples" else 50]
    assert monitor.state_dict()["training_loss"]["sums"][1] == 12
    assert values("gengap/status") == [0]
    assert monitor.prediction.outside == ()


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_another_precision_is_no_other_data(tmp_path: Path, precision: Any, measured: list[int]):
    path = saved(tmp_path, tiny_monitor(), epochs=2)
    monitor = tiny_monitor()
    resumed(path, monitor, epochs=3, precision=precision)
    assert measured == [64]
    assert monitor.state_dict()["training_loss"]["sums"][1] == 12
    assert monitor.prediction.outside == ()


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_another_predictor_uses_what_belongs_to_the_training(tmp_path: Path):
    path = saved(tmp_path, tiny_monitor(), epochs=2)
    before = monitor_state(edited(path, lambda state: {**state, "observations": [to_primitives(OLD)]}))
    monitor = tiny_monitor(predictor=tiny_predictor(name="other_v1", intercept=0.3))
    values = resumed(path, monitor, epochs=3)
    after = monitor.state_dict()
    assert after["memory"]["per_training"] == before["memory"]["per_training"]
    assert after["training_loss"]["sums"][1] == 12
    assert after["observations"] == []
    assert values("gengap/status") == [0]
    assert monitor.prediction.outside == ()


def _without(*names: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {name: value for name, value in state.items() if name not in names}


def _with(part: str, **values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {**state, part: {**state[part], **values}}


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "the previous release": (_without("format", "origin", "began"), "its format is None instead of 4"),
    "a later release": (lambda state: {**state, "format": 5}, "its format is 5 instead of 4"),
    "a part is missing": (_without("schedule"), "schedule is missing"),
    "a value is missing": (lambda state: state["budget"].pop("spent") and None, "budget is damaged"),
    "a value is unknown": (_with("budget", shine=1.0), "budget is damaged"),
    "a wrong readout": (_with("readout", extremes=1.0), "readout is damaged"),
    "a wrong type": (_with("budget", spent="much"), "budget.spent is damaged"),
    "a wrong part": (lambda state: {**state, "flags": {"a": 1}}, "flags is damaged"),
    "a wrong loss": (_with("training_loss", sums=[1.0]), "training_loss is damaged"),
    "a wrong tensor": (_with("memory", warm_starts={"a": 1.0}), "memory.warm_starts is damaged"),
    "a list": (lambda state: [1, 2], "its format is list instead of 4"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_state_starts_anew_with_one_warning(tmp_path: Path, kind: str):
    edit, reason = DAMAGED[kind]
    path = edited(saved(tmp_path, tiny_monitor(), epochs=2), edit)
    monitor = tiny_monitor()
    values, said = watched(monitor, SeededSteps(), data=loader(shuffle=False), max_epochs=3, ckpt_path=path)
    has_weights = kind != "a list"
    rest = "all but its initial weights is measured anew" if has_weights else "it holds no initial weights either"
    assert said[0] == f"GapMonitor starts anew, because its state in the checkpoint cannot be used: {reason}; {rest}."
    assert len([message for message in said if "anew" in message]) == 1
    assert monitor.state_dict()["training_loss"]["sums"][1] == 4
    assert all(math.isfinite(value) for value in values.rows[0].values())
    if has_weights:
        assert values("gengap/status") == [0]
        assert monitor.prediction.outside == ()


def test_initial_weights_of_another_network_are_not_used(tmp_path: Path):
    def of_another(state: dict[str, Any]) -> dict[str, Any]:
        weights = {**state["memory"]["initial_state"], "head.weight": torch.zeros(5, 16)}
        return {**state, "memory": {**state["memory"], "initial_state": weights}}

    path = edited(saved(tmp_path, tiny_monitor(), epochs=2), of_another)
    with pytest.warns(UserWarning, match="no initial weights, because the checkpoint holds those of another network"):
        values = resumed(path, tiny_monitor(seed=1), epochs=3)
    assert values("gengap/status") != [0]


def test_a_checkpoint_without_the_monitor_does_not_meet_the_state_of_an_earlier_fit(tmp_path: Path):
    monitor, path = tiny_monitor(), saved(tmp_path, epochs=1)
    fitted(monitor)
    with pytest.warns(UserWarning, match="no initial weights, because the checkpoint was written without it"):
        resumed(path, monitor, epochs=2)
    assert monitor.state_dict()["memory"]["initial_state"] is None
    assert monitor.state_dict()["training_loss"]["sums"][1] == 4


def test_a_checkpoint_of_before_the_first_step_begins_anew(tmp_path: Path):
    class SaveFirst(Callback):
        def on_train_start(self, trainer: Trainer, *others: Any) -> None:
            trainer.save_checkpoint(tmp_path / "first.ckpt")

    fitted(tiny_monitor(), SaveFirst(), max_epochs=1)
    monitor = tiny_monitor()
    values = resumed(tmp_path / "first.ckpt", monitor, epochs=1)
    assert values("gengap/status") == [0]
    assert monitor.prediction.outside == ()
