from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.margin import logit_gap
from lightning_gengap.measures.path_norm import path_norm
from tests import measure_oracles, networks
from tests.probes import probing


def measured(model: nn.Module, images: Tensor, chunk: int | None = None) -> tuple[dict[str, float], list[str]]:
    with torch.no_grad():
        targets = model.eval()(images).argmax(1)
    with probing(model, images, targets, chunk=chunk) as probe:
        return path_norm(probe), probe.notes


def tiny() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def pooled_cnn() -> nn.Sequential:
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), pool, nn.Linear(4, 4))


@pytest.mark.parametrize("count", [2, 3, 20])
def test_it_is_the_sum_over_all_paths(count: int) -> None:
    model = networks.made(tiny).double()
    inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(0)).double()
    values, notes = measured(model, inputs)
    assert notes == []
    expected = measure_oracles.path_norm([model[0], model[2], model[4]])
    assert values["path_norm/log"] == pytest.approx(math.log(expected), rel=1e-12)
    gaps = logit_gap(model(inputs), model(inputs).argmax(1)).detach()
    over = math.log(expected / float(gaps.quantile(0.1)) ** 2)
    assert values["path_norm/log_over_margin"] == pytest.approx(over, rel=1e-12)


def test_batch_norms_are_folded_into_the_paths() -> None:
    model = networks.made(networks.cnn_with_batch_norm).double()
    flow, shape = np.ones(3 * 8 * 8), (3, 8, 8)
    for i in (0, 3, 6):
        matrix, offset = measure_oracles.affine([model[i], model[i + 1]], shape)
        flow, shape = matrix**2 @ flow + offset**2, (model[i].out_channels, 8, 8)
    pooled = flow.reshape(shape).mean(axis=(1, 2))
    matrix, offset = measure_oracles.affine([model[-1]], (8,))
    values, notes = measured(model, networks.images(20).double(), chunk=7)
    assert notes == []
    assert values["path_norm/log"] == pytest.approx(math.log((matrix**2 @ pooled + offset**2).sum()), rel=1e-9)


def test_invariances() -> None:
    images = networks.images(20).double()
    model = networks.made(pooled_cnn).double()
    before, _ = measured(model, images)
    measure_oracles.rescale_relu(model[0], model[2], 5.0)
    assert measured(model, images)[0] == pytest.approx(before, rel=1e-9)
    measure_oracles.scale_last_layer(model[-1], 7.0)
    after, _ = measured(model, images)
    assert after["path_norm/log_over_margin"] == pytest.approx(before["path_norm/log_over_margin"], rel=1e-9)
    assert after["path_norm/log"] == pytest.approx(before["path_norm/log"] + 2 * math.log(7), rel=1e-9)
    model = networks.made(networks.cnn_with_batch_norm).double()
    before, _ = measured(model, images)
    measure_oracles.rescale_batch_norm(model[3], model[4], 3.0)
    assert measured(model, images)[0] == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (networks.cnn, "not additive"),
        (networks.VGG, "not additive"),
        (networks.Reused, "not additive"),
        (networks.VisionTransformer, "cannot be folded"),
        (networks.Recurrent, "cannot be folded"),
        (lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(192, 4))), "computed"),
    ],
)
def test_it_is_absent_with_one_note_where_there_are_no_paths(factory: object, reason: str) -> None:
    values, notes = measured(networks.made(factory), networks.images(20))  # type: ignore[arg-type]
    assert values == {}
    assert len(notes) == 1
    assert notes[0].startswith("path_norm/* is absent: ")
    assert reason in notes[0]


def test_without_a_positive_margin_only_the_norm_is_there() -> None:
    model, images = networks.made(networks.mlp), networks.images(20)
    with probing(model, images, model(images).argmin(1)) as probe:
        assert list(path_norm(probe)) == ["path_norm/log"]
        assert probe.notes == ["path_norm/log_over_margin is absent: the 10 % quantile of the margin is not positive"]


def test_float32_and_residual_networks() -> None:
    model, images = networks.made(networks.ResNet), networks.images(20)
    single, _ = measured(model, images)
    double, _ = measured(model.double(), images.double())
    assert single == pytest.approx(double, rel=1e-4)
