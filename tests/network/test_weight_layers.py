"""Folded weights and the maps that layers apply."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.network.folding import folded_bias, folded_weights, scale_of
from lightning_gengap.network.weight_layers import weight_operator
from tests import networks
from tests.probes import probing


def folded(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    with probing(model, images, torch.arange(len(images))) as probe:
        return folded_weights(probe)


FOLDABLE: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4)),
    "transposed": lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(1156, 4)
    ),
    "transposed groups": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(384, 4)
    ),
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)),
    "dropout between": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(192, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 4)
    ),
}


@pytest.mark.parametrize("kind", FOLDABLE)
def test_operator_scale_and_bias_make_up_layer_and_batch_norm(kind: str) -> None:
    model, images = networks.made(FOLDABLE[kind]).double().eval(), networks.images(3).double()
    weights = folded(model, images)
    behind = {name: norm for name, norm in zip(weights, _norms(model, weights), strict=True) if norm is not None}
    assert behind
    x = images
    with torch.no_grad():
        for name, module in model.named_children():
            if name in behind:
                bias = folded_bias(behind[name], module)
                y = weight_operator(module, weights[name])(x) + bias.reshape(-1, *[1] * (x.ndim - 2))
                torch.testing.assert_close(y, behind[name](module(x)))
                zero = behind[name](torch.zeros_like(y))
                torch.testing.assert_close(behind[name](torch.ones_like(y)) - zero, _spread(scale_of(behind[name]), y))
            x = module(x)


def _norms(model: nn.Module, weights: dict[str, Tensor]) -> list[nn.Module | None]:
    """The batch norm behind each layer, dropout aside."""
    order = [(name, module) for name, module in model.named_children() if not isinstance(module, nn.Dropout)]
    after = {name: module for (name, _), (_, module) in itertools.pairwise(order)}
    kinds = nn.BatchNorm1d | nn.BatchNorm2d
    return [after[name] if isinstance(after.get(name), kinds) else None for name in weights]


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 2)).expand_as(like)
