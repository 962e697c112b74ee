from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_gengap import GapMonitor
from lightning_gengap.errors import TargetError
from lightning_gengap.monitor.training_loss import RunningLoss, TrainingLoss
from tests.hooks import hooks
from tests.lightning_models import ManualModel, Stepping, TinyModel, blobs, fitted, loader
from tests.tiny_predictors import tiny_monitor

KEY = "speed/train_loss_mean"
EVERY = {KEY, "speed/recent_loss", "speed/first_epoch_loss", "speed/first_epoch_accuracy"}


def speeds(monitor: GapMonitor) -> dict[str, float]:
    return {key: value for key, value in monitor.values.items() if key.startswith("speed/")}


class StepLosses(Callback):
    """The cross-entropy of each step as Lightning reports it, divided by the accumulation."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *others: Any) -> None:
        self.losses.append(float(outputs["loss"]))


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_the_means_are_those_of_the_steps_cross_entropy(accumulated: int, epochs: int):
    monitor, steps = tiny_monitor(), StepLosses()
    fitted(monitor, steps, accumulate_grad_batches=accumulated, max_epochs=epochs)
    assert set(speeds(monitor)) == EVERY
    losses = [accumulated * loss for loss in steps.losses]
    assert len(losses) == 4 * epochs
    assert monitor.values[KEY] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert monitor.values["speed/first_epoch_loss"] == pytest.approx(sum(losses[:4]) / 4, rel=1e-6)
    assert monitor.values["speed/recent_loss"] == pytest.approx(sum(losses[-4:]) / 4, rel=1e-6)


class Scored(TinyModel):
    """Keeps how many of each step's own logits were right."""

    def __init__(self) -> None:
        super().__init__()
        self.right: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch[0])
        self.right.append(int((logits.argmax(1) == batch[1]).sum()))
        return cross_entropy(logits, batch[1])


def test_the_first_epochs_accuracy_is_that_of_the_steps_own_logits():
    monitor, model = tiny_monitor(), Scored()
    fitted(monitor, model=model, max_epochs=3)
    assert sum(model.right[:4]) != sum(model.right[4:8])
    assert monitor.values["speed/first_epoch_accuracy"] == sum(model.right[:4]) / 64


class Twice(Scored):
    """Its head is called a second time, but not in the first step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if batch_idx > 0:
            self(batch[0])
        return loss


def test_logits_that_are_not_the_only_ones_leave_the_accuracy_out():
    monitor = tiny_monitor()
    fitted(monitor, model=Twice())
    assert set(speeds(monitor)) == EVERY - {"speed/first_epoch_accuracy"}


def changed(loss: Callable[[Tensor, Tensor, Tensor], Any]) -> TinyModel:
    """A model whose loss is a function of logits, targets and the squared norm of the weights."""
    return Stepping(
        lambda self, batch: loss(self(batch[0]), batch[1], sum(p.square().sum() for p in self.parameters()))
    )


def mixed(logits: Tensor, targets: Tensor, norm: Tensor) -> Tensor:
    return 0.7 * cross_entropy(logits, targets) + 0.3 * cross_entropy(logits, targets.roll(1))


LOSSES: dict[str, tuple[bool, Callable[[Tensor, Tensor, Tensor], Any]]] = {
    "label smoothing": (False, lambda logits, targets, norm: cross_entropy(logits, targets, label_smoothing=0.1)),
    "mixed labels": (False, mixed),
    "class weights": (False, lambda logits, targets, norm: cross_entropy(logits, targets, torch.arange(1.0, 5.0))),
    "weight penalty": (False, lambda logits, targets, norm: cross_entropy(logits, targets) + 1e-3 * norm),
    "sum": (False, lambda logits, targets, norm: cross_entropy(logits, targets, reduction="sum")),
    "temperature": (False, lambda logits, targets, norm: cross_entropy(logits / 2, targets)),
    "tensor": (True, lambda logits, targets, norm: cross_entropy(logits, targets)),
    "mapping": (True, lambda logits, targets, norm: {"loss": cross_entropy(logits, targets), "more": 1}),
    "log softmax": (True, lambda logits, targets, norm: nn.functional.nll_loss(logits.log_softmax(1), targets)),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_the_plain_cross_entropy_alone_is_recognised(kind: str):
    plain, loss = LOSSES[kind]
    monitor = tiny_monitor()
    fitted(monitor, model=changed(loss))
    assert set(speeds(monitor)) == (EVERY if plain else set())


@pytest.mark.filterwarnings("ignore:.*returned `None`")  # Lightning says it once a process
def test_a_step_without_loss_ends_it():
    monitor = tiny_monitor()
    fitted(monitor, model=changed(lambda logits, targets, norm: None))
    assert KEY not in monitor.values


def test_manual_optimisation_has_no_training_speed():
    monitor = tiny_monitor()
    fitted(monitor, model=ManualModel())
    assert speeds(monitor) == {}


def test_labels_that_only_probe_data_can_tell_end_it_without_an_error():
    def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        targets = torch.stack([y for _, y in items])
        return torch.stack([x for x, _ in items]), nn.functional.one_hot(targets, 4).float()

    monitor = tiny_monitor(probe_data=DataLoader(blobs(), batch_size=16))
    one_hot = Stepping(lambda self, batch: cross_entropy(self(batch[0]), batch[1]))
    logged = fitted(monitor, model=one_hot, data=loader(collate_fn=collate))
    assert logged("gengap/status") == [0, 0]
    assert KEY not in monitor.values


def stepped(loss: Tensor, logits: Tensor, read_targets: Callable[[], Tensor]) -> TrainingLoss:
    """The loss_means after one checked step of a model that returned `logits`."""
    model, loss_means = nn.Identity(), TrainingLoss()
    loss_means.begin_check(model, logits.shape[1])
    model(logits)
    loss_means.step(loss, read_targets)
    return loss_means


LOGITS, TARGETS = torch.randn(8, 4), torch.tensor([0, 1, 2, 3] * 2)


CONFIDENT = nn.functional.one_hot(TARGETS, 4).float()
PAIRS: list[tuple[Tensor, Tensor, bool]] = [
    *((scale * CONFIDENT + torch.randn(8, 4), TARGETS, True) for scale in (1.0, 5.0, 15.0, 40.0)),  # rounding
    (LOGITS.bfloat16(), TARGETS, True),
    *((LOGITS, strange, False) for strange in (TARGETS[:4], TARGETS + 1, TARGETS - 100, TARGETS[:0])),
]


@pytest.mark.parametrize(("logits", "targets", "matches"), PAIRS)
def test_a_loss_matches_but_for_rounding_and_only_targets_of_the_logits(logits: Tensor, targets: Tensor, matches: bool):
    assert (stepped(cross_entropy(logits, TARGETS), logits, lambda: targets).value() is not None) is matches


def test_unreadable_targets_do_not_match():
    def unreadable() -> Tensor:
        raise TargetError("targets", got="a", expected="b", remedy="c")

    assert stepped(cross_entropy(LOGITS, TARGETS), LOGITS, unreadable).value() is None


def test_without_a_check_there_is_no_value():
    loss_means = TrainingLoss()
    loss_means.step(torch.tensor(1.0), lambda: TARGETS)
    assert loss_means.value() is None


def test_a_compiled_model_is_not_watched():
    model, loss_means = torch.compile(nn.Linear(3, 4), backend="eager"), TrainingLoss()
    loss_means.begin_check(model, 4)
    assert hooks(model) == 0
    loss_means.step(torch.tensor(1.0), lambda: TARGETS)
    assert loss_means.value() is None


def test_hooks_live_for_one_step():
    model, loss_means = nn.Sequential(nn.Linear(3, 4)), TrainingLoss()
    loss_means.begin_check(model, 4)
    assert hooks(model) == 1
    loss_means.begin_check(model, 4)
    assert hooks(model) == 1
    loss_means.close()
    assert hooks(model) == 0


def steps_of(loss_means: TrainingLoss, epoch: int, batches: range, per_epoch: int = 3) -> TrainingLoss:
    """The steps of an epoch; losses and hits differ between all of them."""
    model = nn.Identity()
    for batch in batches:
        generator = torch.Generator().manual_seed(per_epoch * epoch + batch)
        logits = torch.randn(8, 4, generator=generator)
        loss_means.begin_step(model, 4, epoch, batch)
        model(logits)
        loss_means.step(cross_entropy(logits, TARGETS), lambda: TARGETS)
    return loss_means


@pytest.mark.parametrize("stop", [(0, 1), (0, 3), (1, 1), (1, 3)])
def test_state_continues_every_value_wherever_it_is_taken(stop: tuple[int, int]):
    whole, parts = TrainingLoss(), TrainingLoss()
    for epoch in range(3):
        steps_of(whole, epoch, range(3))
        cut = stop[1] if epoch == stop[0] else 3
        steps_of(parts, epoch, range(cut))
        if epoch == stop[0]:
            parts = TrainingLoss.restored(parts.state())
        steps_of(parts, epoch, range(cut, 3))
        assert set(whole.values()) == EVERY
        assert parts.values() == pytest.approx(whole.values())


def test_where_the_first_steps_were_not_seen_the_means_by_epoch_come_with_the_next_epoch():
    later = TrainingLoss()
    assert set(steps_of(later, 4, range(1, 3)).values()) == {KEY}  # its epoch's first step was not seen
    assert set(steps_of(later, 5, range(3)).values()) == {KEY, "speed/recent_loss"}


def test_modules_are_watched_in_the_first_epoch_and_at_the_first_step_of_later_ones():
    model, loss_means = nn.Sequential(nn.Identity(), nn.Identity()), TrainingLoss()

    found = []
    for epoch in range(2):
        for batch in range(3):
            loss_means.begin_step(model, 4, epoch, batch)
            found.append(hooks(model))
            model(LOGITS)
            loss_means.step(cross_entropy(LOGITS, TARGETS), lambda: TARGETS)
            assert hooks(model) == 0
    assert found == [1, 1, 1, 1, 0, 0]


def test_running_loss_is_a_metric_of_its_own():
    metric = RunningLoss()
    for value in (1.0, 2.0, 6.0):
        metric.update(torch.tensor(value, requires_grad=True))
    assert float(metric.compute()) == 3.0
    assert float(pickle.loads(pickle.dumps(metric)).compute()) == 3.0
    metric.reset()
    assert metric.count == 0
