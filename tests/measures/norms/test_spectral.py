from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gengap.measures.norms.spectral import circular_norm, largest_singular_value
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
    value, error = largest_singular_value(operator, start, module.weight.detach(), 1e-4)
    assert (1 - error) * largest <= value <= largest * (1 + 1e-12)
    assert 0 <= error < 1.1e-4


SPECTRA: dict[str, list[float]] = {
    "one": [2.0],
    "apart": [3.0, 1.0, 0.5, 0.1],
    "close": [1.0, 1 - 1e-3, 0.9, 0.5, 0.1],
    "closer": [1.0, 1 - 1e-7, 0.3],
    "repeated": [1.0] * 5 + [0.2] * 10,
    "all equal": [0.7] * 30,
    "even": [1 - index / 200 for index in range(200)],
    "crowded at the top": [1 - (index / 300) ** 4 for index in range(300)],
    "one above a crowd": [1.02] + [1.0] * 100,
    "singular": [1.0, 0.0, 0.0],
    "of wide range": [1e3, 1.0, 1e-3, 1e-6],
}


@pytest.mark.parametrize("most", [2, 5, 15, 50])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_the_error_is_bounded_whatever_the_spectrum(spectrum: list[float], most: int) -> None:
    """Also where it has not converged: against the exact values in double precision, over many starts."""
    rng = np.random.default_rng(0)
    rows, columns = len(spectrum) + 3, len(spectrum) + 1
    left, right = (np.linalg.qr(rng.normal(size=(side, len(spectrum))))[0] for side in (rows, columns))
    exact = (left * spectrum) @ right.T
    largest = np.linalg.svd(exact, compute_uv=False)[0]
    matrix = torch.tensor(exact)
    for seed in range(20):
        start = torch.randn(columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        value, error = largest_singular_value(lambda x: x @ matrix.T, start, matrix, 1e-6, most)
        assert (1 - error) * largest <= value <= largest * (1 + 1e-12)
        assert 0 <= error <= 1


def test_the_bound_falls_with_the_products() -> None:
    matrix = torch.tensor(SPECTRA["even"], dtype=torch.float64).diag()
    start = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = [largest_singular_value(lambda x: x @ matrix, start, matrix, 0.0, most).error for most in (5, 15, 50)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 < 0.2 < errors[0]


def test_a_zero_map_has_the_norm_zero() -> None:
    assert largest_singular_value(lambda x: 0 * x, torch.randn(4).double(), torch.zeros(1).double(), 1e-4) == (0, 0)


def test_single_precision_is_part_of_the_bound() -> None:
    weight = torch.randn(60, 60, generator=torch.Generator().manual_seed(0))
    largest = float(np.linalg.svd(weight.double().numpy(), compute_uv=False)[0])
    for seed in range(20):
        start = torch.randn(60, generator=torch.Generator().manual_seed(seed)).double()
        value, error = largest_singular_value(lambda x: x @ weight.T, start, weight, 0.0)
        assert abs(value / largest - 1) <= error < 1e-5


def test_memory_bounds_the_number_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gengap.measures.norms.spectral.MOST_NUMBERS", 7 * 40)
    calls, matrix = [], torch.randn(40, 40, generator=torch.Generator().manual_seed(0)).double()

    def operator(point: torch.Tensor) -> torch.Tensor:
        calls.append(point)
        return point @ matrix.T

    largest_singular_value(operator, torch.randn(40).double(), matrix, 0.0)
    assert len(calls) == 7


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
