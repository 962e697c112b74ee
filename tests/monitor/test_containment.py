"""Whatever fails under the monitor's hands, in the user's code or its own, is one warning and an unchanged training."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from lightning_gengap import GapMonitor
from lightning_gengap.monitor.loggers import Display
from lightning_gengap.monitor.moments import Moments
from lightning_gengap.monitor.readout import Readout
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.schedule import Budget
from lightning_gengap.predictors.predictor import Predictor
from tests.lightning_models import TinyModel, blobs, fitted, loader, stream, watched
from tests.tiny_predictors import tiny_monitor


class FaultError(Exception):
    """No error of ours."""


class Odd(TinyModel):
    """User code that fails under the monitor's hands, in eval mode, from an epoch on."""

    def __init__(self, place: str, after: int = 0, fault: type[BaseException] = FaultError) -> None:
        super().__init__()
        self.place, self.after, self.fault = place, after, fault

    def _fails_in(self, place: str) -> None:
        if place == self.place and not self.training and self.current_epoch >= self.after:
            raise self.fault("broken here")

    def forward(self, images: Tensor) -> Tensor:
        self._fails_in("forward")
        return super().forward(images)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self._fails_in("on_before_batch_transfer")
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        self._fails_in("transfer_batch_to_device")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self._fails_in("on_after_batch_transfer")
        return batch


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    weights, others = model.state_dict(), other.state_dict()
    return all(torch.equal(weights[name], others[name]) for name in weights)


def unchanged(model: TinyModel, monitor: GapMonitor, data: Callable[[], Any] = loader, epochs: int = 3) -> Any:
    """Values and warnings of a training that ends where its twin without the monitor ends, with the same metrics."""
    alone = copy.deepcopy(model)
    values, said = watched(monitor, model=model, data=data(), max_epochs=epochs)
    expected = fitted(model=alone, data=data(), max_epochs=epochs)
    assert same_weights(model, alone)
    users = [{key: value for key, value in row.items() if not key.startswith("gengap/")} for row in values.rows]
    assert users == expected.rows
    assert all(math.isfinite(value) for row in values.rows for value in row.values())
    return values, said


@pytest.mark.parametrize("place", ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"])
def test_where_a_transfer_hook_fails_on_our_reads_the_first_batches_are_copied(
    place: str, caplog: pytest.LogCaptureFixture
):
    values, said = unchanged(Odd(place), tiny_monitor())
    assert values("gengap/status") == [0, 0, 0]
    assert said == []
    assert (
        sum("could not read the training set by index (FaultError: broken here)" in line for line in caplog.messages)
        == 1
    )


@pytest.mark.parametrize(("after", "statuses"), [(0, [2, 2, 2, 4, 4, 4]), (2, [0, 0, 2, 2, 2, 4])])
def test_a_forward_that_fails_in_eval_mode_is_said_once(after: int, statuses: list[int]):
    values, said = unchanged(Odd("forward", after), tiny_monitor(), epochs=6)
    assert values("gengap/status") == statuses
    (message,) = said
    assert "broken here" in message
    assert "Training goes on" in message


class StopEverything(BaseException):
    """No `Exception`, so that no handler of errors catches it."""


@pytest.mark.parametrize("fault", [SystemExit, StopEverything])
@pytest.mark.parametrize("place", ["forward", "on_after_batch_transfer"])
def test_user_code_that_leaves_python_under_our_hands_ends_nothing(place: str, fault: type[BaseException]):
    values, said = unchanged(Odd(place, fault=fault), tiny_monitor())
    assert values("gengap/status") == ([2, 2, 2] if place == "forward" else [0, 0, 0])
    assert [f"it raised {fault.__name__}(broken here)" in line for line in said] == [True] * (place == "forward")


def test_ctrl_c_in_a_measurement_ends_the_training():
    with pytest.raises(SystemExit):  # Lightning's answer to an interrupt
        fitted(tiny_monitor(), model=Odd("forward", after=1, fault=KeyboardInterrupt))


class OwnSampler(Sampler[int]):
    """A sampler of the user's own, of an unknown kind."""

    def __init__(self, fault: bool) -> None:
        self.fault, self.asked = fault, 0

    def __iter__(self) -> Any:
        return iter(range(64))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise FaultError("broken here")

    def __len__(self) -> int:
        return 64


class Unreadable(Dataset[Any]):
    """Readable by the loop of training alone, in its batches of 16."""

    def __init__(self, method: str) -> None:
        self.data, self.method, self.reads = blobs(), method, 0

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        return self.data[index]

    def __getitems__(self, indices: list[int]) -> Any:
        if len(indices) != 16 and self.method == "__getitems__":
            raise FaultError("broken here")
        return [self.data[index] for index in indices]


def sixteen(items: list[Any]) -> Any:
    if len(items) != 16:
        raise FaultError("broken here")
    return default_collate(items)


DATA: dict[str, Callable[[], Any]] = {
    "data set": lambda: DataLoader(Unreadable("__getitems__"), 16, shuffle=True),
    "collate": lambda: loader(collate_fn=sixteen),
    "sampler": lambda: loader(shuffle=False, sampler=OwnSampler(True)),
}


@pytest.mark.parametrize("kind", DATA)
def test_where_data_cannot_be_read_by_index_the_first_batches_are_copied(kind: str, caplog: pytest.LogCaptureFixture):
    monitor = tiny_monitor()
    values, said = unchanged(TinyModel(), monitor, DATA[kind])
    assert values("gengap/status") == [0, 0, 0]
    assert said == []
    if kind != "sampler":  # of which copies of the first batches are known to be taken
        assert sum("(FaultError: broken here), so it copies" in line for line in caplog.messages) == 1
        assert monitor.values["train_samples"] == 64


def broken(*args: Any) -> Any:
    raise FaultError("broken here")


def in_first(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which fails from its n-th call on."""
    left = [calls]

    def fails(*args: Any) -> Any:
        left[0] -= 1
        return function(*args) if left[0] >= 0 else broken()

    return fails


ARGUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "forward=": lambda: {"forward": broken},
    "forward= later": lambda: {"forward": in_first(6, lambda module, batch: module(batch[0]))},
    "target=": lambda: {"target": broken},
    "probe_data=": lambda: {"probe_data": DataLoader(blobs(), 16, collate_fn=broken)},
    "probe_data= iterated": lambda: {"probe_data": map(broken, range(3))},
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_arguments_that_fail_are_said_once(kind: str):
    values, said = unchanged(TinyModel(), tiny_monitor(**ARGUMENTS[kind]()), epochs=5)
    assert values("gengap/status")[-1] == 4
    (message,) = said
    assert "broken here" in message
    assert "GapMonitor(on_error='raise') shows the traceback" in message
    with pytest.raises(Exception, match="broken here"):
        fitted(tiny_monitor(on_error="raise", **ARGUMENTS[kind]()))


OWN: dict[str, tuple[Any, str]] = {
    "what is shown": (Readout, "show"),
    "the budget": (Budget, "allowance"),
    "the prediction": (Predictor, "predict"),
    "the display": (Display, "for_callbacks"),
    "what callbacks find": (Moments, "_publish"),
    "the state": (RunState, "state"),
}


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("kind", OWN)
def test_a_fault_of_its_own_is_said_once(monkeypatch: pytest.MonkeyPatch, kind: str, later: bool):
    owner, name = OWN[kind]
    monkeypatch.setattr(owner, name, in_first(1 if later else 0, getattr(owner, name)))
    monitor = tiny_monitor()
    _, said = unchanged(TinyModel(), monitor)
    if kind == "the state":
        assert said == []  # nothing was saved
        with pytest.warns(UserWarning, match="saving its state failed: FaultError: broken here") as caught:
            states = [monitor.state_dict() for _ in range(3)]
        assert len(caught) == 1
        assert states[-1] == {}
    else:
        (message,) = said
        assert "broken here" in message


HOOKS = ("on_train_start", "on_train_batch_start", "on_before_backward", "on_train_batch_end", "on_train_epoch_end")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("after", [0, 5])
def test_a_hook_that_fails_anywhere_switches_it_off(monkeypatch: pytest.MonkeyPatch, hook: str, after: int):
    from lightning_gengap.monitor import moments, start_up
    from lightning_gengap.monitor.training_loss import TrainingLoss

    owner, name = {
        "on_train_start": (start_up.StartUp, "run"),
        "on_train_batch_start": (start_up.StartUp, "copy"),
        "on_before_backward": (start_up.StartUp, "add_lazy_weights"),
        "on_train_batch_end": (TrainingLoss, "step"),
        "on_train_epoch_end": (moments, "compare_with_validation"),
    }[hook]
    after = {"on_train_start": 0, "on_train_epoch_end": min(after, 1)}.get(hook, after)
    monkeypatch.setattr(owner, name, in_first(after, getattr(owner, name)))
    values, said = unchanged(TinyModel(), tiny_monitor())
    (message,) = said
    assert message.startswith(
        f"GapMonitor is switched off: its hook {hook} failed: FaultError: broken here. Training goes on"
    )
    if hook != "on_train_epoch_end":
        assert values("gengap/status")[-1] == 4


def test_warnings_that_are_errors_end_no_training(caplog: pytest.LogCaptureFixture):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        values = fitted(tiny_monitor(), model=Odd("forward"), max_epochs=5)
    assert values("gengap/status") == [2, 2, 2, 4, 4]
    assert sum("GapMonitor could not measure before and after the first step" in line for line in caplog.messages) == 1
    caplog.clear()


def test_a_lazy_module_is_measured_once_its_first_forward_has_made_its_weights():
    class Lazy(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.frozen[0] = nn.LazyLinear(16)

    monitor = tiny_monitor()
    torch.manual_seed(0)
    model = Lazy()
    values, said = watched(monitor, model=model)
    torch.manual_seed(0)
    alone = Lazy()
    fitted(model=alone)
    assert same_weights(model, alone)
    assert values("gengap/status") == [0, 0]
    assert said == []
    assert monitor.prediction.outside == ()
    assert {"frozen.0.weight", "body.0.weight"} <= monitor.state_dict()["memory"]["initial_state"].keys()


@pytest.mark.parametrize("kind", ["lazy", "forward", "target"])
def test_a_stream_fails_and_recovers_alike(kind: str):
    class Late(TinyModel):
        steps = 0

        def forward(self, images: Tensor) -> Tensor:
            self.steps += self.training
            if kind == "forward" and not self.training and self.steps == 0:
                raise FaultError("not yet")
            return super().forward(images)

    torch.manual_seed(0)
    model = Late()
    if kind == "lazy":
        model.head = nn.LazyLinear(4)
    target = in_first(0, torch.Tensor) if kind == "target" else None
    values, said = watched(tiny_monitor(target=target), model=model, data=stream(), max_epochs=3)
    torch.manual_seed(0)
    alone = Late()
    if kind == "lazy":
        alone.head = nn.LazyLinear(4)
    fitted(model=alone, data=stream(), max_epochs=3)
    assert same_weights(model, alone)
    assert values("gengap/status") == ([2, 2, 2] if kind == "target" else [0, 0, 0])
    assert len(said) == (kind == "target")
