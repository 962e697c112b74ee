"""The gap that a predictor is fitted to: train minus test accuracy, and test minus train loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_gengap.zoo.train.task import TaskData

_CHUNK = 1000


def observed_gap(model: torch.nn.Module, data: TaskData, noise: float) -> dict[str, float]:
    """Both gaps, the accuracies behind the first, and the number of test samples, by column of the table.

    The test labels are meant to come from the same noisy process as the train labels. They are not corrupted: a share
    `noise` of noisy labels is uniform over the classes, so the expected noisy accuracy is
    (1 - noise) x clean accuracy + noise / classes, and likewise for the loss. The model is in eval mode.

    The accuracy is also given on each half of the test samples, which are taken in turn: on one an epoch is chosen, on
    the other it is scored.
    """
    train, test = _logits(model, data.train_images), _logits(model, data.test_images)
    train_accuracy = float((train.argmax(1) == data.train_labels).double().mean())
    right = (test.argmax(1) == data.test_labels).double()
    clean_accuracy = float(right.mean())
    uniform_loss = float(-test.log_softmax(1).mean())
    test_accuracy, first, second = (
        (1 - noise) * float(part.mean()) + noise / test.shape[1] for part in (right, right[::2], right[1::2])
    )
    test_loss = (1 - noise) * float(cross_entropy(test, data.test_labels)) + noise * uniform_loss
    train_loss = float(cross_entropy(train, data.train_labels))
    return {
        "gap.train_accuracy": train_accuracy,
        "gap.test_accuracy": test_accuracy,
        "gap.test_accuracy_first_half": first,
        "gap.test_accuracy_second_half": second,
        "gap.clean_test_accuracy": clean_accuracy,
        "gap.accuracy": train_accuracy - test_accuracy,
        "gap.loss": test_loss - train_loss,
        "gap.test_samples": float(len(data.test_labels)),
        **({"gap.bayes_accuracy": data.bayes_accuracy} if math.isfinite(data.bayes_accuracy) else {}),
    }


def _logits(model: torch.nn.Module, images: Tensor) -> Tensor:
    """In double precision on the CPU, where the data are; the model may be on another device."""
    device = next((parameter.device for parameter in model.parameters()), images.device)
    return torch.cat([model(chunk.to(device)).cpu() for chunk in images.split(_CHUNK)]).double()
