from __future__ import annotations

import math

import pytest
import torch

from tests import networks
from tests.probes import measured, probing, taken


def test_accuracy_loss_and_confidence_are_means_over_samples() -> None:
    model, images = networks.made(networks.cnn_with_batch_norm).eval(), networks.images(30)
    targets = networks.mostly_right_targets(model, images)
    with torch.no_grad():
        rows = model(images).double().tolist()
    hits, losses, confidences = [], [], []
    for row, target in zip(rows, targets.tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        hits.append(row[target] == max(row))
        losses.append(math.log(total) - row[target])
        confidences.append(math.exp(max(row)) / total)
    values = measured("fit", model.train(), images, targets, chunk=7).values
    assert values == pytest.approx(
        {
            "train_accuracy": sum(hits) / 30,
            "train_loss": sum(losses) / 30,
            "train_confidence": sum(confidences) / 30,
        },
        rel=1e-5,
    )
    assert values["train_accuracy"] == pytest.approx(0.8)


def test_huge_logits_stay_finite() -> None:
    model, images = networks.made(networks.mlp), networks.images(30)
    with torch.no_grad():
        model[-1].weight *= 1e6
    assert len(measured("fit", model, images, torch.arange(30) % 4).values) == 3


def test_its_forward_is_shared_and_its_values_are_the_same_whatever_else_is_taken() -> None:
    model, images, calls = networks.made(networks.mlp), networks.images(30), []
    alone = measured("fit", model, images, torch.arange(30) % 4).values
    with probing(model, images, torch.arange(30) % 4) as probe:
        taken("margin", probe)
        model.register_forward_hook(lambda *_: calls.append(1))
        assert taken("fit", probe).values == alone
        taken("calibration", probe)
    assert len(calls) == 1
