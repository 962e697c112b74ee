"""Validations whose logged figure is no accuracy, or is not read as it is logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics import classification as metrics

from tests.integration.refusals.case import Case
from tests.lightning_models import CLASSES, AveragedValidation, TinyModel, ValidatedModel


class Logs(ValidatedModel):
    """Its validation logs what is given."""

    def __init__(self, figure: Callable[[Tensor, Tensor], Any] | None = None, metric: Any = None, **how: Any) -> None:
        super().__init__()
        self.figure, self.metric, self.how = figure, metric, how

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits, targets = self(batch[0]), batch[1]
        if self.metric is not None:
            self.metric.update(logits, targets)
        self.log("val_acc", self.metric if self.figure is None else self.figure(logits, targets), **self.how)


def share(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(1) == targets).float().mean()


class LogsTwo(Logs):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("val/acc", 0.5)


class LogsOnce(Logs):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.current_epoch == 0:
            super().validation_step(batch, batch_idx)


class Blind(TinyModel):
    """Validates without logging anything."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


class LogsWith(Logs):
    """Its metric is updated with what is made of logits and targets."""

    def __init__(self, metric: Any, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__(metric=metric)
        self.change = change

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.metric.update(*self.change(self(batch[0]), batch[1]))
        self.log("val_acc", self.metric)


def of(metric: Callable[[], Any]) -> Case:
    return Case(lambda: Logs(metric=metric()))


def number(value: float) -> Case:
    return Case(lambda: Logs(lambda *_: torch.tensor(value)))


VALIDATIONS: dict[str, Case] = {
    "a validation without an accuracy": Case(Blind),
    "a key that is not logged": Case(lambda: Logs(share), {"validation_accuracy": "my_accuracy"}),
    "a negative number": number(-0.5),
    "two validation accuracies": Case(lambda: LogsTwo(share)),
    "a top-k accuracy": of(lambda: metrics.MulticlassAccuracy(CLASSES, top_k=2)),
    "an accuracy of several labels a sample": Case(
        lambda: LogsWith(
            metrics.MultilabelAccuracy(CLASSES), lambda logits, labels: (logits.sigmoid(), one_hot(labels, CLASSES))
        )
    ),
    "an accuracy with a threshold": Case(
        lambda: LogsWith(
            metrics.BinaryAccuracy(threshold=0.4),
            lambda logits, labels: (logits.softmax(1)[:, 0], (labels == 0).long()),
        )
    ),
    "a metric that is no accuracy": of(lambda: metrics.MulticlassF1Score(CLASSES)),
    "an accuracy of other samples": of(lambda: metrics.MulticlassAccuracy(CLASSES, ignore_index=0)),
    "a number that is no share of the samples": number(0.4451),
    "a number above 1": number(44.51),
    "a number that is not finite": number(torch.nan),
    "the largest accuracy of a batch": Case(lambda: Logs(share, reduce_fx="max")),
    "a validation of averaged weights": Case(lambda: Logs(share), reader=AveragedValidation),
    "a figure of an earlier epoch": Case(lambda: LogsOnce(share)),
    "an accuracy in percent": Case(lambda: Logs(lambda *both: 100 * share(*both))),
    "an accuracy averaged over classes": of(lambda: metrics.MulticlassAccuracy(CLASSES, average="macro")),
}
