from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.margins.margin_metrics import logit_gap
from tests import networks
from tests.oracles import measures as measure_oracles
from tests.probes import Measured, measured


def path_norms(model: nn.Module, images: Tensor, chunk: int | None = None) -> Measured:
    with torch.no_grad():
        targets = model.eval()(images).argmax(1)
    return measured("path_norm", model, images, targets, chunk=chunk)


def tiny() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def pooled_cnn() -> nn.Sequential:
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), pool, nn.Linear(4, 4))


@pytest.mark.parametrize("count", [2, 3, 20])
def test_it_is_the_sum_over_all_paths(count: int) -> None:
    model = networks.made(tiny).double()
    inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(0)).double()
    values, absent, *_ = path_norms(model, inputs)
    assert absent == {}
    layers = [model[0], model[2], model[4]]
    margin = float(logit_gap(model(inputs), model(inputs).argmax(1)).detach().quantile(0.1))
    total = measure_oracles.path_norm(layers)
    expected = {"path_norm/log": math.log(total), "path_norm/log_over_margin": math.log(total / margin**2)}
    for power in (1, 1.5):
        root = measure_oracles.path_norm(layers, power) ** (1 / power)
        expected |= {f"path_norm/log_{power}": math.log(root)}
        expected |= {f"path_norm/log_{power}_over_margin": math.log(root / margin)}
    assert values == pytest.approx(expected, rel=1e-12)


def test_batch_norms_are_folded_into_the_paths() -> None:
    model = networks.made(networks.cnn_with_batch_norm).double()
    flow, shape = np.ones(3 * 8 * 8), (3, 8, 8)
    for i in (0, 3, 6):
        matrix, offset = measure_oracles.affine([model[i], model[i + 1]], shape)
        flow, shape = matrix**2 @ flow + offset**2, (model[i].out_channels, 8, 8)
    pooled = flow.reshape(shape).mean(axis=(1, 2))
    matrix, offset = measure_oracles.affine([model[-1]], (8,))
    values, absent, *_ = path_norms(model, networks.images(20).double(), chunk=7)
    assert absent == {}
    assert values["path_norm/log"] == pytest.approx(math.log((matrix**2 @ pooled + offset**2).sum()), rel=1e-9)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (networks.cnn, "not additive"),
        (networks.VGG, "not additive"),
        (networks.Reused, "not additive"),
        (networks.VisionTransformer, "parameters outside its layers"),
        (networks.Recurrent, "cannot be folded"),
        (lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(192, 4))), "computed"),
    ],
)
def test_it_is_undefined_where_there_are_no_paths(factory: Callable[[], nn.Module], reason: str) -> None:
    values, absent, *_ = path_norms(networks.made(factory), networks.images(20))
    assert values == {}
    assert reason in absent["path_norm/log*"]


def test_without_a_positive_margin_only_the_norm_is_there() -> None:
    model, images = networks.made(networks.mlp), networks.images(20)
    values, absent, *_ = measured("path_norm", model, images, model(images).argmin(1))
    assert list(values) == ["path_norm/log", "path_norm/log_1", "path_norm/log_1.5"]
    assert absent == {"path_norm/*_over_margin*": "the 10 % quantile of the margin is not positive"}


def test_float32_and_residual_networks() -> None:
    model, images = networks.made(networks.ResNet), networks.images(20)
    single = path_norms(model, images).values
    double = path_norms(model.double(), images.double()).values
    assert single == pytest.approx(double, rel=1e-4)


def test_a_clipping_that_only_one_power_meets_makes_only_that_power_absent() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU6(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        model[0].weight.fill_(3.0)  # the clip is at 6: sums of weights 9, of their squares 27
        model[0].bias.fill_(0.0)
    inputs = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)).double()
    assert path_norms(model, inputs).values == {}
    with torch.no_grad():
        model[0].weight.fill_(0.5)
    assert set(path_norms(model, inputs).values) >= {"path_norm/log", "path_norm/log_1", "path_norm/log_1.5"}
    with torch.no_grad():
        model[0].weight.fill_(1.7)  # sums of weights 5.1, of their powers 1.5 6.6, of their squares 8.7
    values, absent, *_ = path_norms(model, inputs)
    assert set(values) == {"path_norm/log_1", "path_norm/log_1_over_margin"}
    assert set(absent) == {f"path_norm/{name}{over}" for name in ("log", "log_1.5") for over in ("", "_over_margin")}
