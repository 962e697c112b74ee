from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_gengap.measures.norms.spectral import circular_norm, power_iteration
from lightning_gengap.network.weight_layers import WeightLayer
from tests import networks, oracles
from tests.oracles.measures import circular


def layer_of(module: nn.Module, input_shape: tuple[int, ...]) -> WeightLayer:
    return WeightLayer("layer", module, module.weight.detach(), input_shape)


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: nn.Conv2d(3, 4, 3), (3, 6, 6)),
    "padding": (lambda: nn.Conv2d(3, 4, 3, padding=1), (3, 6, 6)),
    "same": (lambda: nn.Conv2d(3, 4, 3, padding="same"), (3, 6, 6)),
    "stride": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 7, 7)),
    "dilation": (lambda: nn.Conv2d(3, 4, 3, dilation=2, padding=2), (3, 7, 7)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1), (4, 6, 6)),
    "circular": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (3, 6, 6)),
    "circular same": (lambda: nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular"), (3, 6, 6)),
    "reflect": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"), (3, 6, 5)),
    "one-dimensional": (lambda: nn.Conv1d(3, 5, 3, padding=1, stride=2), (3, 12)),
    "three-dimensional": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 3, 4, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), (3, 4, 4)),
    "transposed groups": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2), (4, 4, 4)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_has_the_norm_of_the_map_it_applies(kind: str) -> None:
    factory, shape = CONVOLUTIONS[kind]
    module, zero = networks.made(factory).double(), torch.zeros(1, *shape, dtype=torch.float64)
    operator = layer_of(module, shape).operator()
    with torch.no_grad():
        exact = oracles.matrix(lambda x: module(x) - module(zero), shape)
        torch.testing.assert_close(oracles.matrix(operator, shape), exact)
    largest = float(torch.linalg.matrix_norm(exact, ord=2))
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    value, change, vector = power_iteration(operator, start, 50)
    assert 0.99 * largest <= value <= largest * (1 + 1e-4)
    assert 0 <= change < 0.01
    assert vector.shape == shape


def test_power_iteration_approaches_the_norm_from_below() -> None:
    matrix = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).double()
    largest = float(torch.linalg.matrix_norm(matrix, ord=2))
    values = [power_iteration(lambda x: x @ matrix.T, torch.ones(5).double(), n)[0] for n in range(1, 60)]
    assert values == sorted(values, key=lambda value: round(value, 9))
    assert values[-1] <= largest * (1 + 1e-12)
    assert values[-1] == pytest.approx(largest, rel=1e-9)


CIRCULAR: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: nn.Conv2d(3, 4, 3), (3, 6, 5)),
    "odd and even sides": (lambda: nn.Conv2d(3, 2, (2, 3)), (3, 5, 4)),
    "stride and padding count as none": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 6, 6)),
    "dilation": (lambda: nn.Conv2d(2, 3, 3, dilation=2), (2, 5, 5)),
    "a kernel as wide as its input": (lambda: nn.Conv2d(2, 3, 3, padding=2), (2, 2, 3)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5)),
    "one-dimensional": (lambda: nn.Conv1d(3, 5, 3), (3, 7)),
    "three-dimensional": (lambda: nn.Conv3d(2, 3, 2), (2, 3, 4, 3)),
}


@pytest.mark.parametrize("kind", CIRCULAR)
def test_the_fourier_variant_is_the_norm_of_the_circular_convolution(kind: str) -> None:
    factory, shape = CIRCULAR[kind]
    module = networks.made(factory).double()
    weight = module.weight.detach()
    matrix = oracles.matrix(lambda x: circular(weight, module.groups, module.dilation, x), shape)
    expected = float(torch.linalg.matrix_norm(matrix, ord=2))
    assert circular_norm(layer_of(module, shape)) == pytest.approx(expected, rel=1e-9)


def test_a_transposed_convolution_has_the_norms_of_its_adjoint() -> None:
    module = networks.made(lambda: nn.ConvTranspose2d(4, 6, 3, groups=2)).double()
    weight = module.weight.detach()  # shape (4, 3, 3, 3): the kernels of a convolution from 6 to 4 channels
    matrix = oracles.matrix(lambda x: circular(weight, 2, (1, 1), x), (6, 5, 5))
    layer = layer_of(module, (4, 5, 5))
    assert circular_norm(layer) == pytest.approx(float(torch.linalg.matrix_norm(matrix, ord=2)), rel=1e-9)
    rows = layer.matrix()
    assert rows.shape == (6, 2 * 9)
    for unit in range(6):
        group, within = divmod(unit, 3)
        torch.testing.assert_close(rows[unit], weight[2 * group : 2 * group + 2, within].flatten())
