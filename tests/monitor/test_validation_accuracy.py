"""Which logged figures are taken for a validation accuracy, how they are read, and what is said of the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchmetrics
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import classification as metrics

from lightning_gengap.monitor.logged_figures import Figure
from lightning_gengap.monitor.validation_accuracy import Refusal, Validation, ValidationAccuracy, find_key, read
from tests.lightning_models import (
    CLASSES,
    EXAMPLES,
    AveragedValidation,
    Iterated,
    TinyModel,
    blobs,
    loader,
    quiet_trainer,
)
from tests.tiny_predictors import tiny_monitor

pytestmark = pytest.mark.filterwarnings("ignore:GapMonitor. .*is absent")
HELD_OUT = 50  # classes of 13, 13, 12 and 12: the macro average is no plain accuracy


@pytest.mark.parametrize(
    "key", ["val_acc", "val_accuracy", "valid/acc", "validation/accuracy", "valid_accuracy", "Val/Acc"]
)
def test_the_usual_name_is_found(key: str):
    logged = {key: torch.tensor(0.75), "val_loss": 1.0, "train_acc": 0.9, "val_acc_top5": 0.99, "my_val_acc": 0.1}
    assert find_key(logged, None) == key


def test_a_given_name_wins_over_the_usual_one():
    assert find_key({"val_acc": 0.5, "held_out": 0.6}, "held_out") == "held_out"


@pytest.mark.parametrize(
    ("logged", "name", "reason"),
    [
        ({"loss": 1.0}, None, "no logged metrics match a key like val_acc or val/accuracy. "),
        ({"val_acc": 0.5}, "other", "no logged metrics match 'other', but there are val_acc. "),
        (
            {"gengap/valued": 0.5, "Val/1": 0.5, "val_acc/dataloader_idx_0": 0.5, "loss": 1.0},
            None,
            "no logged metrics match a key like val_acc or val/accuracy, but there are Val/1, val_acc/dataloader_idx_0",
        ),
        ({"val_acc": 0.5, "val/acc": 0.6}, None, "2 logged metrics match a key like val_acc or val/accuracy (val_acc"),
    ],
)
def test_none_or_several_are_refused(logged: dict[str, float], name: str | None, reason: str):
    refusal = find_key(logged, name)
    assert str(refusal).startswith(f"gengap/actual_gap is absent: {reason}")
    assert str(refusal).endswith("Pass GapMonitor(validation_accuracy='<the key you log>').")


@pytest.mark.parametrize("samples", [1, 7, 64, 1000, 10_000, 50_000, 200_000])
@pytest.mark.parametrize("batch", [1, 100, 128])
def test_every_share_is_taken_however_it_was_summed(samples: int, batch: int):
    """As Lightning sums: float32 means of batches times their sizes, divided by the number of samples."""
    generator = torch.Generator().manual_seed(samples)
    right = torch.rand(samples, generator=generator) < torch.rand(1, generator=generator)
    total = torch.tensor(0.0)
    for part in right.split(max(batch, samples // 2000)):
        total = total + part.float().mean() * len(part)
    found = read("val_acc", float(total / samples), Figure(), samples)
    assert isinstance(found, ValidationAccuracy)
    assert (found.value, found.samples) == (pytest.approx(float(right.double().mean()), abs=1e-6), samples)


@pytest.mark.parametrize("samples", [1000, 10_000])
def test_a_percentage_of_counts_is_divided(samples: int):
    found = read("val_acc", float(torch.tensor(93.4)), Figure(), samples)
    assert isinstance(found, ValidationAccuracy)
    assert found.value == pytest.approx(0.934, abs=1e-7)
    assert found.remark == "val_acc is read as a percentage."
    later = read("val_acc", 0.9, Figure(), samples, percent=True)
    assert isinstance(later, ValidationAccuracy)
    assert later.value == pytest.approx(0.009)


@pytest.mark.parametrize(
    ("value", "samples", "figure", "reason"),
    [
        (math.nan, 100, Figure(), "the logged val_acc is nan. It is compared again once it is finite."),
        (math.inf, 100, Figure(), "the logged val_acc is inf."),
        (93.4, None, Figure(), "the logged val_acc is 93.4, no fraction in [0, 1]. Log a fraction, not a percentage."),
        (93.45, 100, Figure(), "the logged val_acc is 93.45, no fraction in [0, 1]. Log a fraction"),
        (93.4, 10**7, Figure(), "the logged val_acc is 93.4, no fraction in [0, 1]. Log a fraction"),
        (101.0, 100, Figure(), "the logged val_acc is 101, no fraction in [0, 1]. Log a fraction"),
        (-0.5, 100, Figure(), "the logged val_acc is -0.5, no fraction in [0, 1]. Log the share of"),
        (0.445, 100, Figure(), "the logged val_acc is 0.445, no number of right samples divided by the 100 of this"),
        (
            0.5,
            100,
            Figure(40, 90),
            "the logged val_acc is an accuracy of 90 predictions, where this validation had 100",
        ),
        (0.5, 100, Figure(objection="a top-5 accuracy"), "the logged val_acc is a top-5 accuracy. Log the share of"),
    ],
)
def test_a_figure_that_can_be_no_accuracy_is_refused(value: float, samples: int | None, figure: Figure, reason: str):
    refusal = read("val_acc", value, figure, samples)
    assert isinstance(refusal, Refusal)
    assert str(refusal).startswith(f"gengap/actual_gap is absent: {reason}")


def test_what_cannot_be_told_is_taken():
    assert read("val_acc", 0.445123, Figure(), None) == ValidationAccuracy(0.445123, None, "val_acc")
    assert isinstance(read("val_acc", 0.445123, Figure(), 10**7), ValidationAccuracy)


def test_a_named_key_settles_it_within_0_and_1():
    for figure in (Figure(), Figure(objection="a top-5 accuracy")):
        found = read("top5", 0.445, figure, 100, named=True)
        assert isinstance(found, ValidationAccuracy)
        assert found.value == 0.445
        assert isinstance(read("top5", 44.55, figure, 100, named=True), Refusal)


class Logging(TinyModel):
    """Logs what is given as its validation accuracy, by `log` in each step."""

    def __init__(self, figure: Callable[[Tensor, Tensor], Any] | None = None, metric: Any = None, **how: Any) -> None:
        with torch.random.fork_rng():  # other weights may make a refused figure a possible one
            torch.manual_seed(0)
            super().__init__()
        self.figure, self.metric, self.how = figure, metric, how

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits, targets = self(batch[0]), batch[1]
        if self.metric is None:
            self.log("val_acc", self.figure(logits, targets), **self.how)
        elif isinstance(self.metric, torchmetrics.MetricCollection):
            self.metric.update(logits, targets)
            self.log_dict(self.metric)
        else:
            self.metric.update(*_fitting(self.metric, logits, targets))
            self.log("val_acc", self.metric)


def _fitting(metric: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    if isinstance(metric, torchmetrics.MeanMetric):
        return ((logits.argmax(1) == targets).float(),)
    if isinstance(metric, metrics.BinaryAccuracy):  # of classes 0 and 1, judged by the sign of their difference
        return torch.sigmoid(logits[:, 1] - logits[:, 0]), targets.clamp(max=1)
    if isinstance(metric, metrics.MultilabelAccuracy):
        return torch.sigmoid(logits), torch.nn.functional.one_hot(targets, CLASSES)
    return logits, targets


def held_out(batch_size: int = 18) -> DataLoader[Any]:
    noisy = blobs(HELD_OUT, seed=1)
    images, targets = noisy.tensors
    return DataLoader(TensorDataset(images + 3 * torch.randn_like(images), targets), batch_size)


def compared(model: LightningModule, validation: Any = None, **arguments: Any) -> tuple[Any, Any, float]:
    """The monitor and the Trainer after an epoch with validation, and the true accuracy of that validation."""
    monitor = tiny_monitor(**arguments)
    trainer = quiet_trainer(monitor, max_epochs=1)
    torch.manual_seed(0)
    validation = held_out() if validation is None else validation
    trainer.fit(model, loader(), validation)
    model.eval()
    with torch.no_grad():
        right = torch.cat([model(images).argmax(1) == targets for images, targets in validation])
    return monitor, trainer, float(right.double().mean())


def _learned(monitor: Any, trainer: Any) -> float | None:
    """The actual gap of the epoch. It is evidence if and only if it is there, and the number of samples is known."""
    gap = trainer.callback_metrics.get("gengap/actual_gap")
    known = gap is not None and monitor._state.validation.samples is not None
    assert len(monitor._state.observations) == int(known)
    return None if gap is None else float(gap)


def _share(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(1) == targets).float().mean()


READ_RIGHT = {
    "a mean over batches": Logging(_share),
    "percent": Logging(lambda logits, targets: 100 * _share(logits, targets)),
    "on step and epoch": Logging(_share, on_step=True, on_epoch=True),
    "micro": Logging(metric=metrics.MulticlassAccuracy(CLASSES, average="micro")),
    "macro": Logging(metric=metrics.MulticlassAccuracy(CLASSES)),
    "weighted": Logging(metric=metrics.MulticlassAccuracy(CLASSES, average="weighted")),
    "by task": Logging(metric=torchmetrics.Accuracy(task="multiclass", num_classes=CLASSES, average="macro")),
    "mean object": Logging(metric=torchmetrics.MeanMetric()),
    "collection": Logging(
        metric=torchmetrics.MetricCollection(
            {"acc": metrics.MulticlassAccuracy(CLASSES), "f1": metrics.MulticlassF1Score(CLASSES)}, prefix="val_"
        )
    ),
}


@pytest.mark.parametrize("kind", READ_RIGHT)
def test_it_is_read_right(kind: str):
    monitor, trainer, accuracy = compared(READ_RIGHT[kind])
    gap = float(trainer.callback_metrics["gengap/train_accuracy"]) - accuracy
    assert _learned(monitor, trainer) == pytest.approx(gap, abs=1e-6)
    found = monitor._state.validation.accuracy(trainer, None)
    assert found.samples == HELD_OUT


REFUSED = {
    "top 2": (Logging(metric=metrics.MulticlassAccuracy(CLASSES, top_k=2)), "MulticlassAccuracy with top_k=2"),
    "F1": (Logging(metric=metrics.MulticlassF1Score(CLASSES)), "MulticlassF1Score, which is no accuracy"),
    "AUROC": (Logging(metric=metrics.MulticlassAUROC(CLASSES)), "MulticlassAUROC, which is no accuracy"),
    "labels": (Logging(metric=metrics.MultilabelAccuracy(CLASSES)), "MultilabelAccuracy, of several labels a sample"),
    "threshold": (Logging(metric=metrics.BinaryAccuracy(threshold=0.3)), "BinaryAccuracy with threshold=0.3"),
    "ignored": (
        Logging(metric=metrics.MulticlassAccuracy(CLASSES, average="micro", ignore_index=0)),
        "an accuracy of 37 predictions, where this validation had 50 samples",
    ),
    "best batch": (Logging(_share, reduce_fx="max"), "the max over batches"),
    "unweighted": (Logging(_share, batch_size=1), "no number of right samples divided by the 50"),
    "per mille": (Logging(lambda logits, targets: 1000 * _share(logits, targets)), "no fraction in [0, 1]"),
    "macro number": (
        Logging(lambda logits, targets: metrics.MulticlassAccuracy(CLASSES)(logits, targets)),
        "no number of right samples divided by the 50",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_by_name(kind: str):
    model, name = REFUSED[kind]
    with pytest.warns(UserWarning, match="GapMonitor: gengap/actual_gap is absent: the logged val_acc is ") as said:
        monitor, trainer, _ = compared(model)
    assert _learned(monitor, trainer) is None
    notices = [str(warning.message) for warning in said if "actual_gap" in str(warning.message)]
    assert len(notices) == 1
    assert name in notices[0]
    assert "\n" not in notices[0]


def test_a_refused_figure_that_is_named_is_taken():
    model = Logging(metric=metrics.MulticlassAccuracy(CLASSES, top_k=2))
    monitor, trainer, _ = compared(model, validation_accuracy="val_acc")
    logged = trainer.callback_metrics
    assert _learned(monitor, trainer) == pytest.approx(float(logged["gengap/train_accuracy"] - logged["val_acc"]))


def test_a_binary_object_counts_both_classes():
    class Binary(Logging):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step((batch[0], batch[1].clamp(max=1)), batch_idx)

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)[:, :2]

    data = [(images, targets.clamp(max=1)) for images, targets in held_out()]
    model = Binary(metric=metrics.BinaryAccuracy())
    model.train_metric = metrics.MulticlassAccuracy(2)
    monitor, trainer, accuracy = compared(model, Iterated(data), target=lambda batch: batch[1].clamp(max=1))
    gap = float(trainer.callback_metrics["gengap/train_accuracy"]) - accuracy
    assert _learned(monitor, trainer) == pytest.approx(gap, abs=1e-6)


def test_batches_that_are_not_understood_leave_the_number_unchecked():
    class Named(Logging):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step((batch["a"], batch["b"]), batch_idx)

    batches = [{"a": images, "b": targets} for images, targets in held_out()]
    monitor = tiny_monitor()
    trainer = quiet_trainer(monitor, max_epochs=1)
    trainer.fit(Named(_share, batch_size=18), loader(), Iterated(batches))
    assert monitor._state.validation.samples is None
    assert _learned(monitor, trainer) is not None


def test_only_samples_that_were_validated_count():
    model = Logging(_share)
    monitor = tiny_monitor()
    trainer = quiet_trainer(monitor, max_epochs=1, limit_val_batches=2, num_sanity_val_steps=1)
    trainer.fit(model, loader(), held_out())
    assert monitor._state.validation.accuracy(trainer, None).samples == 36


class OfTwoLoaders(Logging):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)


def test_the_figure_of_one_loader_is_checked_by_its_own_samples():
    monitor = tiny_monitor(validation_accuracy="val_acc/dataloader_idx_0")
    trainer = quiet_trainer(monitor, max_epochs=1)
    trainer.fit(OfTwoLoaders(metric=None, figure=_share), loader(), [held_out(), loader(EXAMPLES, shuffle=False)])
    assert monitor._state.validation.accuracy(trainer, "val_acc/dataloader_idx_0").samples == HELD_OUT
    assert _learned(monitor, trainer) is not None


def test_an_old_figure_is_not_compared():
    class Sometimes(Logging):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if self.current_epoch == 0:
                super().validation_step(batch, batch_idx)

    monitor = tiny_monitor()
    trainer = quiet_trainer(monitor, max_epochs=3)
    with pytest.warns(UserWarning, match="val_acc was not logged for the whole of this epoch's") as said:
        trainer.fit(Sometimes(_share), loader(), held_out())
    assert len([1 for warning in said if "not logged" in str(warning.message)]) == 1
    assert len(monitor._state.observations) == 1


def test_other_names_inside_lightning_leave_the_number_unchecked():
    validation = Validation()
    trainer: Any = SimpleNamespace(
        world_size=1, _results={"val_acc": object()}, callback_metrics={"val_acc": torch.tensor(0.75)}
    )
    validation.begin()
    validation.end(trainer)
    assert validation.accuracy(trainer, None) == ValidationAccuracy(0.75, None, "val_acc")


@pytest.mark.parametrize("with_epoch_hooks", [True, False])
@pytest.mark.parametrize("is_first", [True, False])
def test_an_accuracy_of_averaged_weights_is_not_compared(with_epoch_hooks: bool, is_first: bool):
    averaging, monitor = AveragedValidation(with_epoch_hooks), tiny_monitor()
    callbacks = (averaging, monitor) if is_first else (monitor, averaging)
    trainer = quiet_trainer(*callbacks, max_epochs=1)
    with pytest.warns(UserWarning, match="actual_gap is absent: val_acc is of other weights than those that are"):
        trainer.fit(Logging(_share), loader(), held_out())
    assert _learned(monitor, trainer) is None


class BatchMeans(TinyModel):
    """Logs the next of these figures at the end of each validation."""

    figures = (0.5, 0.5125, 0.5, 0.76)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])

    def on_validation_epoch_end(self) -> None:
        self.log("val_acc", self.figures[self.current_epoch])


def test_what_was_no_share_of_the_samples_once_is_none_where_it_looks_like_one():
    monitor = tiny_monitor()
    trainer = quiet_trainer(monitor, max_epochs=4)
    with pytest.warns(UserWarning, match="val_acc is 0.5125, no number of right samples divided by the 50"):
        trainer.fit(BatchMeans(), loader(), DataLoader(blobs(HELD_OUT, seed=1), batch_size=16))
    assert monitor._state.observations == []
