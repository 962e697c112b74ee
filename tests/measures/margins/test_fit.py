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


def test_only_accuracy_is_invariant_to_the_scale_of_the_logits() -> None:
    model, images = networks.made(networks.mlp), networks.images(30)
    targets = networks.mostly_right_targets(model, images)
    values = []
    for _ in range(2):
        values.append(measured("fit", model, images, targets).values)
        with torch.no_grad():
            model[-1].weight *= 5
            model[-1].bias *= 5
    assert values[0]["train_accuracy"] == values[1]["train_accuracy"]
    assert values[0]["train_confidence"] < values[1]["train_confidence"]
    assert values[0]["train_loss"] != pytest.approx(values[1]["train_loss"], rel=1e-2)


def test_huge_logits_stay_finite() -> None:
    model, images = networks.made(networks.mlp), networks.images(30)
    with torch.no_grad():
        model[-1].weight *= 1e6
    assert len(measured("fit", model, images, torch.arange(30) % 4).values) == 3


def test_the_forward_is_shared_with_the_margins() -> None:
    model, images, calls = networks.made(networks.mlp), networks.images(30), []
    with probing(model, images, torch.arange(30) % 4) as probe:
        model.register_forward_hook(lambda *_: calls.append(1))
        taken("margin", probe)
        taken("fit", probe)
    assert len(calls) == 1
