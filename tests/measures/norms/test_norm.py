from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.network.weight_layers import weight_operator
from tests import networks, oracles
from tests.probes import measured

TARGETS = torch.arange(20) % networks.CLASSES


def norms_of(model: nn.Module, images: Tensor | None = None) -> dict[str, float]:
    values, absent, *_ = measured("norm", model, networks.images(20) if images is None else images, TARGETS)
    assert absent == {}
    return values


SHAPES = {"0": (3, 8, 8), "2": (6, 8, 8), "5": (8, 4, 4)}  # of the inputs of the convolutions of `networks.cnn`


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """The maps that the convolutions and the last layer of `networks.cnn` apply."""
    layers = {name: model.get_submodule(name) for name in SHAPES}
    found = {
        name: oracles.matrix(weight_operator(layer, layer.weight.detach()), SHAPES[name])
        for name, layer in layers.items()
    }
    return found | {"9": model[-1].weight.detach()}


def test_the_values_are_sums_and_means_of_logarithms() -> None:
    model = networks.made(networks.cnn).double()
    values = norms_of(model, networks.images(20).double())
    spectral = [2 * math.log(torch.linalg.matrix_norm(matrix, ord=2)) for matrix in matrices(model).values()]
    weights = [module.weight for module in model if hasattr(module, "weight")]
    frobenius = [math.log(sum(w**2 for w in weight.flatten().tolist())) for weight in weights]
    assert 0 <= values["norm/spectral_change"] < 0.01
    assert values["norm/log_product_spectral"] == pytest.approx(sum(spectral), abs=4 * 0.02)
    assert values["norm/log_product_spectral"] <= sum(spectral) + 1e-4
    assert values["norm/log_sum_spectral"] == pytest.approx(math.log(4) + sum(spectral) / 4, abs=0.02)
    assert values["norm/log_product_frobenius"] == pytest.approx(sum(frobenius), rel=1e-9)
    assert values["norm/log_sum_frobenius"] == pytest.approx(math.log(4) + sum(frobenius) / 4, rel=1e-9)


@pytest.mark.parametrize("factory", [networks.cnn_with_batch_norm, networks.VGG, networks.ResNet])
def test_rescaling_in_front_of_batch_norm_changes_nothing(factory: Callable[[], nn.Module]) -> None:
    model = networks.made(factory)
    before = norms_of(model)
    weights = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        weights[1].weight *= 10
        norms[1].running_var.copy_(100 * (norms[1].running_var + norms[1].eps) - norms[1].eps)
    assert norms_of(model) == pytest.approx(before, rel=1e-4, abs=1e-4)


class TwoNormsOnOne(nn.Module):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.shared, self.head = nn.Linear(192, 192), nn.Linear(192, 4)
        self.norms = nn.ModuleList([nn.BatchNorm1d(192), nn.BatchNorm1d(192)])
        self.calls = calls

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.norms
        x = self.shared(images.flatten(1))
        if self.calls == 1:
            return self.head(first(x) + second(x))
        return self.head(second(self.shared(torch.relu(first(x)))))


class NormOverRows(nn.Module):
    """The batch norm's channels are the image's rows, not the layer's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(24, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.embed(images.transpose(1, 2).flatten(2))).mean(dim=1))


ABSENT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "layer norm": (
        lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(192), nn.Linear(192, 4)),
        r"LayerNorm '1' cannot be folded",
    ),
    "group norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 4)),
        r"GroupNorm '1' cannot be folded",
    ),
    "parameters of its own": (networks.VisionTransformer, r"VisionTransformer has parameters outside its layers"),
    "recurrent": (networks.Recurrent, r"LSTM 'lstm' cannot be folded"),
    "before": (lambda: nn.Sequential(nn.BatchNorm2d(3), networks.cnn()), r"batch norm '0' does not directly follow"),
    "no statistics": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 4)
        ),
        r"batch norm '2' does not",
    ),
    "two norms": (lambda: TwoNormsOnOne(1), r"batch norm 'norms.1' does not .* layer of its own"),
    "a reused layer": (lambda: TwoNormsOnOne(2), r"batch norm 'norms.0' does not .* layer of its own"),
    "other axis": (NormOverRows, r"batch norm 'norm' does not scale the outputs of 'embed'"),
    "a zero layer": (lambda: _zeroed(networks.mlp()), r"a weight layer is zero or not finite"),
}


def _zeroed(model: Any) -> nn.Module:
    nn.init.zeros_(model[1].weight)
    return model


@pytest.mark.parametrize("kind", ABSENT)
def test_undefined_where_a_scale_would_be_missing(kind: str) -> None:
    factory, reason = ABSENT[kind]
    values, absent, *_ = measured("norm", networks.made(factory), networks.images(20), TARGETS)
    assert (values, set(absent)) == ({}, {"norm/*"})
    assert re.search(reason, absent["norm/*"])


def test_parametrized_weights_count_as_they_are_applied() -> None:
    model = networks.made(networks.mlp)
    before = norms_of(model)
    for module in model:
        if isinstance(module, nn.Linear):
            nn.utils.parametrizations.weight_norm(module)
    values = norms_of(model)
    assert values == pytest.approx(before, rel=1e-5)


def test_the_error_of_the_spectral_norms_is_bounded() -> None:
    model = networks.made(networks.cnn).double()
    exact = sum(2 * math.log(torch.linalg.matrix_norm(matrix, ord=2)) for matrix in matrices(model).values())
    values = norms_of(model, networks.images(20).double())
    bound = values["norm/spectral_change"]
    assert 0 < bound < 1e-3
    short = exact - values["norm/log_product_spectral"]
    assert -1e-9 < short <= -2 * len(SHAPES) * math.log1p(-bound)


def test_a_second_measurement_is_as_good_as_the_first() -> None:
    """Nothing of the first is kept, which the weights may have left in the meantime."""
    model, images, memory = networks.made(networks.cnn), networks.images(20), {}
    first = measured("norm", model, images, TARGETS, memory=memory).values
    with torch.no_grad():
        model[0].weight.add_(0.3 * model[0].weight.flip(0))
    again = measured("norm", model, images, TARGETS, memory=memory).values
    assert again == norms_of(model) != first
    assert memory == {}
