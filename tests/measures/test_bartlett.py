from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.bartlett import bartlett
from lightning_gengap.measures.margin import logit_gap
from tests import measure_oracles, networks
from tests.probes import probing


def measured(model: nn.Module, images: Tensor, **more: object) -> tuple[dict[str, float], list[str]]:
    with torch.no_grad():
        targets = model.eval()(images).argmax(1)
    with probing(model, images, targets, **{"train_samples": 500, **more}) as probe:
        return bartlett(probe), probe.notes


def complexity(matrices: list[np.ndarray], images: Tensor, samples: int) -> float:
    spectral = [np.linalg.norm(matrix, 2) for matrix in matrices]
    groups = [sum(np.linalg.norm(row) for row in matrix) for matrix in matrices]
    total = sum((group / norm) ** (2 / 3) for group, norm in zip(groups, spectral, strict=True)) ** 1.5
    size = np.sqrt(np.mean([np.linalg.norm(image) ** 2 for image in images.numpy().reshape(len(images), -1)]))
    return float(np.prod(spectral) * total * size / np.sqrt(samples))


def test_a_dense_network_against_numpy() -> None:
    model, images = networks.made(networks.mlp).double(), networks.images(30).double()
    values, notes = measured(model, images)
    scale = complexity([layer.weight.detach().numpy() for layer in model[1::2]], images, 500)
    gaps = logit_gap(model(images), model(images).argmax(1)).detach().numpy()
    assert notes == []
    assert values == pytest.approx(
        {
            "bartlett/log_complexity": math.log(scale),
            "bartlett/q05": np.quantile(gaps, 0.05) / scale,
            "bartlett/q10": np.quantile(gaps, 0.1) / scale,
            "bartlett/median": np.quantile(gaps, 0.5) / scale,
        },
        rel=1e-6,
    )


def test_convolutions_count_as_dense_operators() -> None:
    model, images = networks.made(networks.cnn_with_batch_norm).double(), networks.images(10).double()
    matrices, channels = [], 3
    for i in (0, 3, 6):
        matrices.append(measure_oracles.affine([model[i], model[i + 1]], (channels, 8, 8))[0])
        channels = model[i].out_channels
    matrices.append(model[-1].weight.detach().numpy())
    values, _ = measured(model, images)
    # The power iteration has not fully converged after its fifty steps.
    assert values["bartlett/log_complexity"] == pytest.approx(math.log(complexity(matrices, images, 500)), abs=2e-2)


def test_invariances() -> None:
    images = networks.images(20).double()
    model = networks.made(networks.mlp).double()
    before, _ = measured(model, images)
    measure_oracles.rescale_relu(model[1], model[3], 5.0)
    assert measured(model, images)[0] == pytest.approx(before, rel=1e-5)
    measure_oracles.scale_last_layer(model[-1], 7.0)
    after, _ = measured(model, images)
    for name in ("q05", "q10", "median"):
        assert after[f"bartlett/{name}"] == pytest.approx(before[f"bartlett/{name}"], rel=1e-5)
    model = networks.made(networks.cnn_with_batch_norm).double()
    before, _ = measured(model, images)
    measure_oracles.rescale_batch_norm(model[3], model[4], 3.0)
    assert measured(model, images)[0] == pytest.approx(before, rel=1e-5)


def test_the_number_of_monitored_samples_does_not_matter_but_that_of_training_samples_does() -> None:
    model, images = networks.made(networks.mlp).double(), networks.images(20).double()
    once, _ = measured(model, images)
    twice, _ = measured(model, torch.cat([images, images]), chunk=7)
    assert twice["bartlett/log_complexity"] == pytest.approx(once["bartlett/log_complexity"], rel=1e-9)
    more, _ = measured(model, images, train_samples=2000)
    assert more["bartlett/log_complexity"] == pytest.approx(once["bartlett/log_complexity"] - math.log(2), rel=1e-9)


def test_what_is_undefined_is_absent_with_a_note() -> None:
    images = networks.images(20)
    values, notes = measured(networks.made(networks.mlp), images, train_samples=None)
    assert values == {}
    assert notes == ["bartlett/* is absent: it needs float inputs of one shape, and the number of training samples"]
    assert measured(networks.made(networks.VisionTransformer), images)[0] == {}
    model = networks.made(networks.mlp)
    with probing(model, images, model(images).argmin(1), train_samples=20) as probe:
        assert bartlett(probe)["bartlett/q05"] < 0
