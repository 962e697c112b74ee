from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from lightning_gengap.measures.margins.calibration import expected_calibration_error, mean_entropy
from tests import networks
from tests.oracles import measures as measure_oracles
from tests.probes import measured


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_calibration_error_is_that_of_the_streaming_metric_and_of_a_loop(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = scale * torch.randn(300, 7, generator=generator).double()
    targets = torch.randint(7, (300,), generator=generator)
    metric = MulticlassCalibrationError(num_classes=7, n_bins=15, norm="l1")
    for rows, labels in zip(logits.split(64), targets.split(64), strict=True):
        metric.update(rows, labels)
    found = expected_calibration_error(logits, targets)
    assert found == pytest.approx(float(metric.compute()), rel=1e-5)
    exact = measure_oracles.expected_calibration_error(logits.softmax(1).numpy(), targets.numpy(), 15)
    assert found == pytest.approx(exact, rel=1e-5)


def test_calibration_of_certain_and_of_uniform_predictions() -> None:
    targets = torch.arange(40) % 4
    certain = 1e4 * torch.eye(4, dtype=torch.float64)[targets]
    assert expected_calibration_error(certain, targets) == pytest.approx(0, abs=1e-6)
    assert expected_calibration_error(certain, (targets + 1) % 4) == pytest.approx(1, abs=1e-6)
    assert mean_entropy(certain) == 0
    assert mean_entropy(torch.zeros(7, 4).double()) == pytest.approx(np.log(4))


def test_calibration_reads_the_shared_logits() -> None:
    model, images = networks.made(networks.mlp).double(), networks.images(32).double()
    targets = torch.arange(32) % networks.CLASSES
    values = measured("calibration", model, images, targets, chunk=5).values
    logits = model(images).detach()
    assert values["calibration/error_15"] == pytest.approx(expected_calibration_error(logits, targets))
    p = logits.softmax(1).numpy()
    assert values["calibration/entropy"] == pytest.approx(float(-(p * np.log(p)).sum(axis=1).mean()))
