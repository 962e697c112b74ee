"""The first training batch is replayed: the monitor says when it would measure another function than is trained."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_gengap import GapMonitor
from lightning_gengap.monitor.readout import Status
from tests.hooks import hooks
from tests.integration.test_bit_identity import assert_identical
from tests.lightning_models import CLASSES, ManualModel, Stepping, TinyModel, blobs, loader, quiet_trainer, stream
from tests.tiny_predictors import tiny_monitor

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent")


class Rows(Dataset[dict[str, Any]]):
    """The blobs as mappings, with their classes as a hint beside them."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = blobs()[index]
        return {"image": image, "label": label, "hint": one_hot(label, CLASSES).float()}


class Flat(LightningModule):
    """A network on flat blobs; its training step is given."""

    def __init__(self, step: Callable[[Any, Any], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(16, CLASSES)
        self.scale = nn.Parameter(torch.tensor(2.0))
        for name, part in parts.items():
            setattr(self, name, part)
        self.step = step

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.net(images))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.step(self, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


class Hinted(Flat):
    """Its hint is optional, and names no key of the batch."""

    def __init__(self, step: Callable[[Any, Any], Tensor]) -> None:
        super().__init__(step, hint=nn.Linear(CLASSES, CLASSES))

    def forward(self, images: Tensor, more: Tensor | None = None) -> Tensor:
        logits = super().forward(images)
        return logits if more is None else logits + self.hint(more)


class Scaled(Flat):
    """Ends with what is no module."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * self.scale


class Turned(Flat):
    """Gives its columns in another order than the training step has them."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).flip(1)


class Counting(Flat):
    """Its scale follows a counter, which no buffer holds."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(images) * (1 + 0.1 * self.calls)


class Functional(Flat):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.linear(self.net(images), self.head.weight, self.head.bias)


class Heads(Flat):
    """Deep supervision: several outputs in train mode, one in eval mode."""

    def __init__(self, step: Callable[[Any, Any], Tensor]) -> None:
        super().__init__(step, second=nn.Linear(16, CLASSES))

    def forward(self, images: Tensor) -> Any:
        hidden = self.net(images)
        return (self.head(hidden), self.second(hidden)) if self.training else self.head(hidden)


class Teacher(Flat):
    """Learns from a frozen teacher that is called first, in train mode, so that it moves the random stream."""

    def __init__(self, step: Callable[[Any, Any], Tensor]) -> None:
        super().__init__(step, teacher=nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, CLASSES)))


def plain(module: Any, batch: Any) -> Tensor:
    return cross_entropy(module(batch[0]), batch[1])


def smoothed(module: Any, batch: Any) -> Tensor:
    return cross_entropy(module(batch[0]), batch[1], label_smoothing=0.1) + 1e-3 * module.head.weight.square().sum()


def distilled(module: Any, batch: Any) -> Tensor:
    with torch.no_grad():
        wanted = module.teacher(batch[0])
    return plain(module, batch) + (module(batch[0]) - wanted).square().mean()


def popped(module: Any, batch: Any) -> Tensor:
    labels = batch.pop("label")
    return cross_entropy(module(batch["image"]), labels)


def noisy_first(module: Any, batch: Any) -> Tensor:
    weights = torch.rand(len(batch[0])) + float(np.random.rand())  # before the first module is called
    return (weights * cross_entropy(module(batch[0]), batch[1], reduction="none")).mean()


def copied(module: Any, batch: Any) -> Tensor:
    copy.deepcopy(module.net)(batch[0])  # a moving average that begins, say
    return plain(module, batch)


def crops(module: Any, batch: Any) -> Tensor:
    return cross_entropy(module(torch.cat([batch[0], batch[0].flip(3)])), batch[1].repeat(2))


def in_parts(module: Any, batch: Any) -> Tensor:
    return sum(plain(module, part) for part in zip(batch[0].split(8), batch[1].split(8), strict=True))  # type: ignore


def rows() -> DataLoader[Any]:
    return DataLoader(Rows(), 16, shuffle=True)


def mixing() -> DataLoader[Any]:
    def mixed(items: list[Any]) -> Any:
        images, labels = default_collate(items)
        return 0.7 * images + 0.3 * images.flip(0), labels

    return loader(collate_fn=mixed)


AGREE: dict[str, tuple[Callable[..., LightningModule], Callable[[], Any]]] = {
    "plain": (lambda: Flat(plain), loader),
    "stream": (lambda: Flat(plain), stream),
    "smoothed with a penalty": (lambda: Flat(smoothed), loader),
    "forward called": (lambda: Flat(lambda m, b: cross_entropy(m.forward(b[0]), b[1])), loader),
    "parts called": (lambda: Flat(lambda m, b: cross_entropy(m.head(m.net(b[0])), b[1])), loader),
    "parts called, then scaled": (
        lambda: Scaled(lambda m, b: cross_entropy(m.head(m.net(b[0])) * m.scale, b[1])),
        loader,
    ),
    "parts called, smoothed": (
        lambda: Scaled(lambda m, b: cross_entropy(m.head(m.net(b[0])) * m.scale, b[1], label_smoothing=0.1)),
        loader,
    ),
    "forward called, then scaled": (lambda: Scaled(lambda m, b: cross_entropy(m.forward(b[0]), b[1])), loader),
    "flattened": (lambda: Flat(lambda m, b: cross_entropy(m(b[0].flatten(1)), b[1])), loader),
    "counter": (lambda: Counting(plain), loader),
    "functional": (lambda: Functional(plain), loader),
    "functional and hidden": (lambda: Functional(lambda m, b: cross_entropy(m.forward(b[0]), b[1])), loader),
    "several heads": (lambda: Heads(lambda m, b: sum(cross_entropy(z, b[1]) for z in m(b[0]))), loader),  # type: ignore
    "teacher": (lambda: Teacher(distilled), loader),
    "batch that loses its labels": (lambda: Flat(popped), rows),
    "random numbers before the network": (lambda: Flat(noisy_first), loader),
    "network copied in the step": (lambda: Flat(copied), loader),
    "two crops": (lambda: Flat(crops), loader),
    "parts of the batch": (lambda: Flat(in_parts), loader),
    "mixed in the collate": (lambda: Flat(plain), mixing),
    "manual": (ManualModel, loader),
}


def watched(model: LightningModule, data: Any, **arguments: Any) -> tuple[GapMonitor, list[str]]:
    """A monitor that has seen two epochs, and its warnings of what always abstains."""
    monitor = tiny_monitor(**arguments)
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_trainer(monitor).fit(model, data)
    said = [str(each.message) for each in caught]
    return monitor, [line for line in said if "always abstains" in line and "there are no hidden layers" not in line]


@pytest.mark.parametrize("kind", AGREE)
def test_ordinary_steps_are_not_doubted(kind: str) -> None:
    model, data = AGREE[kind]
    monitor, said = watched(model(), data())
    assert said == []
    assert monitor._state is not None
    assert monitor._state.replay.mismatch is None
    assert not any("first training step" in reason for reason in monitor._state.never_because)


def normalised(module: Any, batch: Any) -> Tensor:
    return cross_entropy(module((batch[0] - batch[0].mean(0)) / batch[0].std(0)), batch[1])


def hinted(module: Any, batch: Any) -> Tensor:
    return cross_entropy(module(batch["image"], more=batch["hint"]), batch["label"])


def mixed(module: Any, batch: Any) -> Tensor:
    return cross_entropy(module(0.6 * batch[0] + 0.4 * batch[0].flip(0)), batch[1])


def in_place(module: Any, batch: Any) -> Tensor:
    batch[0].square_()
    return plain(module, batch)


def otherwise(module: Any, batch: Any) -> Tensor:
    return cross_entropy(module.head(module.net(batch[0]).square()), batch[1])


DIFFER: dict[str, tuple[Callable[..., LightningModule], Callable[[], Any], str]] = {
    "normalised": (
        lambda: Flat(normalised),
        loader,
        "GapMonitor(forward=lambda module, batch: module(prepared(batch)))",
    ),
    "in place": (
        lambda: Flat(in_place),
        loader,
        "inputs that are not the batch's (normalised, augmented or mixed?)",
    ),
    "another argument": (
        lambda: Hinted(hinted),
        rows,
        "Pass GapMonitor(forward=lambda module, batch: module(batch['image'], more=batch['hint']))",
    ),
    "parts alone": (
        lambda: Scaled(lambda m, b: cross_entropy(m.head(m.net(b[0])), b[1])),
        loader,
        "Pass GapMonitor(forward=lambda module, batch: module.head(module.net(batch[0])))",
    ),
    "columns in another order": (
        lambda: Turned(lambda m, b: cross_entropy(m.head(m.net(b[0])), b[1])),
        loader,
        "Pass GapMonitor(forward=lambda module, batch: module.head(module.net(batch[0])))",
    ),
    "other parts": (lambda: Flat(otherwise), loader, "training_step calls module.head(prepared(batch))"),
}


@pytest.mark.parametrize("kind", DIFFER)
def test_another_function_is_said_once_with_what_to_pass(kind: str) -> None:
    model, data, words = DIFFER[kind]
    monitor, said = watched(model(), data())
    assert len(said) == 1
    assert words in said[0]
    assert "by up to" in said[0]
    assert monitor._state is not None
    assert len(monitor._state.never_because) == 1


def flipped(module: Any, batch: Any) -> Tensor:
    return cross_entropy(module(batch[0].flip(-1)), batch[1])


def noisy(module: Any, batch: Any) -> Tensor:
    return cross_entropy(module(batch[0] + 0.3 * torch.randn_like(batch[0])), batch[1])


@pytest.mark.parametrize("step", [mixed, flipped, noisy])
def test_augmentation_in_the_step_is_said_once_and_widens_the_interval(step: Callable[..., Tensor]) -> None:
    monitor = tiny_monitor()
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="The samples are measured as they are") as caught:
        quiet_trainer(monitor).fit(Flat(step), loader())
    said = [str(each.message) for each in caught if "measured as they are" in str(each.message)]
    assert len(said) == 1
    assert "pass GapMonitor(forward=" in said[0]
    assert "module(batch[0])" in said[0]
    assert monitor.prediction is not None
    assert "training_inputs" in monitor.prediction.outside
    assert monitor.values["trained_on_copies"] == 1.0


def test_a_step_on_the_batch_itself_trains_on_no_copies() -> None:
    for given in (None, lambda module, batch: module(batch[0])):
        monitor, said = watched(
            Flat(lambda module, batch: cross_entropy(module(batch[0]), batch[1])), loader(), forward=given
        )
        assert said == []
        assert monitor.values["trained_on_copies"] == 0.0


def test_of_a_step_that_calls_something_else_it_is_not_known() -> None:
    model, data, _ = DIFFER["other parts"]
    monitor, _ = watched(model(), data())
    assert "trained_on_copies" not in monitor.values


def test_the_forward_that_is_named_settles_it(caplog: pytest.LogCaptureFixture) -> None:
    _, said = watched(Hinted(hinted), rows(), forward=lambda module, batch: module(batch["image"], more=batch["hint"]))
    assert said == []
    with caplog.at_level(logging.INFO):
        _, said = watched(Flat(mixed), loader(), forward=lambda module, batch: module(batch[0]))
    assert said == []
    assert sum("measures what forward= computes" in each.getMessage() for each in caplog.records) == 1


class Recurrent(TinyModel):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(2), nn.Flatten(0, 1))
        self.lstm = nn.LSTM(36, 16, 2, batch_first=True, dropout=0.3)
        self.frozen = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.frozen(self.lstm(images.flatten(2))[0][:, -1])))


class Checkpointed(TinyModel):
    def forward(self, images: Tensor) -> Tensor:
        hidden = checkpoint(self.body, images, use_reentrant=False)
        return self.head(torch.relu(checkpoint(self.frozen, hidden, use_reentrant=False)))


class Spectral(TinyModel):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.utils.parametrizations.spectral_norm(self.head)
        self.body[0] = nn.utils.spectral_norm(self.body[0])  # the older one, by hooks


@pytest.mark.parametrize("model", [TinyModel, ManualModel, Recurrent, Checkpointed, Spectral])
@pytest.mark.parametrize("arguments", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 3}])
def test_training_is_the_same_to_the_last_bit(model: Any, arguments: dict[str, Any]) -> None:
    if model is ManualModel and "accumulate_grad_batches" in arguments:
        pytest.skip("Lightning accumulates for automatic optimization alone")
    monitor = tiny_monitor()
    assert_identical(monitor, model=model, **arguments)
    assert monitor._state is not None
    assert monitor._state.replay.mismatch is None


def test_the_replay_reaches_its_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_gengap.monitor import replay

    seen: list[float] = []
    nearest = replay._nearest

    def noted(*arguments: Any) -> float:
        seen.append(nearest(*arguments))
        return seen[-1]

    monkeypatch.setattr(replay, "_nearest", noted)
    for model in (TinyModel, ManualModel, Recurrent, Checkpointed, Spectral):
        watched(model(), loader())
    assert seen == [0.0] * 5


def test_a_failure_of_the_replay_is_no_failure_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr("lightning_gengap.monitor.replay.run_at", broken)
    monitor, said = watched(Flat(normalised), loader())
    assert said == []
    assert monitor._state is not None
    assert monitor._state.readout.status != Status.FAILED


def test_nothing_stays_registered_where_a_step_fails() -> None:
    def broken(module: Any, batch: Any) -> Tensor:
        raise ValueError("no")

    model = Flat(broken)
    with pytest.raises(ValueError, match="no"):
        quiet_trainer(tiny_monitor()).fit(model, loader())
    assert hooks(model) == 0


def test_compiled_networks_are_not_compared() -> None:
    model = Stepping(lambda m, b: cross_entropy(m(b[0] - 1), b[1]))
    model.body.compile(backend="eager")
    _, said = watched(model, loader())
    assert said == []


def after_one_step_without_backward(module: Any, batch: Any) -> Tensor | None:
    module.steps = getattr(module, "steps", 0) + 1
    return plain(module, batch) if module.steps > 1 else None


class ByHand(Flat):
    """Calls `backward` itself, which no hook tells."""

    def __init__(self) -> None:
        super().__init__(plain)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.optimizers().zero_grad()
        self.step(self, batch).backward()
        self.optimizers().step()


def test_a_step_without_a_backward_is_not_compared_with_the_next_one() -> None:
    monitor, said = watched(Flat(after_one_step_without_backward), loader())
    assert said == []
    assert monitor._state is not None
    assert monitor._state.replay._recording is None


def test_steps_whose_backward_is_never_seen_are_not_recorded_for_ever() -> None:
    model, monitor, counts = ByHand(), tiny_monitor(), []

    class Look(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            counts.append(hooks(model))

    trainer = quiet_trainer(monitor, Look(), max_epochs=3)
    trainer.fit(model, loader())
    assert set(counts) == {0}
    assert monitor._state is not None
    assert monitor._state.replay.mismatch is None


def test_a_forward_that_waits_for_other_processes_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others may not make the call that it would wait for."""
    tally: SimpleQueue[int] = SimpleQueue()
    monkeypatch.setattr("lightning_gengap.monitor.step_recording.exchanges", tally.qsize)
    repeated: list[bool] = []
    monkeypatch.setattr("lightning_gengap.monitor.replay.run_at", lambda *_: repeated.append(True))

    class Exchanging(Flat):
        def forward(self, images: Tensor) -> Tensor:
            tally.put(1)
            return super().forward(images)

    _, said = watched(Exchanging(normalised), loader())
    assert said == []
    assert not repeated
    watched(Flat(normalised), loader())
    assert repeated
