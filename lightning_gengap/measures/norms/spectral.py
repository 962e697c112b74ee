"""Spectral norms of weight layers: of the map that a layer applies, and of a circular convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import starmap
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_gengap.derivatives.memory import FREE, require_room
from lightning_gengap.derivatives.time import LEAVE, of_eigenvalues, of_singular_values, require_time
from lightning_gengap.linalg.lanczos import Tridiagonal, lanczos
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.weight_layers import EMBEDDINGS, Operator, WeightLayer

MOST_PRODUCTS = 50
TOLERANCE = 1e-4  # of the norm, relative, that is enough
CHECKED_EVERY = 5  # products
MOST_NUMBERS = 2**26  # in the basis of float64 vectors that Lanczos keeps: 512 MiB
EXACT = 1e11  # multiplications: of as many at most are all singular values of a dense layer computed
MISSED = 1e-4  # the probability, over random starts, that the bound does not hold


class Spectral(NamedTuple):
    """A spectral norm, from below.

    Attributes:
        value: at most the true norm, but for rounding.
        error: a bound of (true norm - value) / true norm.
    """

    value: float
    error: float


def spectral_norm(layer: WeightLayer, probe: Probe) -> Spectral:
    """The largest singular value of the map that the layer applies; exact but for convolutions and huge dense layers.

    Dense layers are huge above some 2,700 inputs and outputs, where all singular values take more than ten seconds.
    """
    if isinstance(layer.module, nn.Linear) and of_singular_values(*layer.weight.shape) <= EXACT:
        require_room(4 * 4 * layer.weight.numel(), f"the singular values of {layer.name!r}", FREE)
        return Spectral(float(torch.linalg.matrix_norm(_with_svd(layer.weight).float(), ord=2)), 0.0)
    if isinstance(layer.module, EMBEDDINGS):  # tall: its Gram matrix is small
        rows, columns = layer.weight.shape
        require_room(8 * columns * (rows + 3 * columns), f"the weights of {layer.name!r} in double precision", FREE)
        require_time(rows * columns**2 + of_eigenvalues(columns), f"the spectral norm of {layer.name!r}", LEAVE)
        tall = layer.weight.cpu().double()
        return Spectral(float(torch.linalg.eigvalsh(tall.mT @ tall)[-1].clamp(min=0).sqrt()), 0.0)
    return operator_norm(layer.operator(), layer, probe)


def _with_svd(weight: Tensor) -> Tensor:
    """On a device that computes singular values: that of a Mac does not."""
    return weight.cpu() if weight.device.type == "mps" else weight


def operator_norm(operator: Operator, layer: WeightLayer, probe: Probe) -> Spectral:
    """The same of any linear map of the layer's inputs A, by Lanczos on A^T A from a random start.

    The start g is Gaussian, and drawn without regard to A. So the top singular vector v has <v, g>^2 >= c^2 in it but
    for a probability of `MISSED`, with c the quantile of a normal variable's absolute value. That bounds the norm from
    above: see `Tridiagonal.largest_at_most`. Equal or close singular values take nothing from that. Memory: the basis,
    at most `MOST_NUMBERS`; inputs of more than 1.3 million numbers get fewer products, and wider bounds.

    Cost: at most 50 products, each a forward and a backward of one example through the layer.
    """
    start = torch.randn(layer.input_shape, generator=torch.Generator().manual_seed(probe.seed)).double()
    most = min(MOST_PRODUCTS, max(MOST_NUMBERS // start.numel(), 2))
    require_room(8 * (most + 6) * start.numel(), f"the vectors for the spectral norm of {layer.name!r}", FREE)
    return largest_singular_value(operator, start, layer.weight, TOLERANCE)


def largest_singular_value(
    operator: Operator, start: Tensor, like: Tensor, tolerance: float, most: int = MOST_PRODUCTS
) -> Spectral:
    """The largest singular value of a linear operator, from below, and a bound of its error.

    Args:
        operator: maps a batch of one example, shape (1, *start.shape), with the type and device of `like`.
        start: Gaussian and independent of the operator, float64, on the CPU.
        like: gives type and device.
        tolerance: the relative error that is enough.
        most: the largest number of products with A^T A.
    """
    weight = (MISSED * math.sqrt(math.pi / 2)) ** 2  # P(|N| < c) <= c sqrt(2 / pi)
    rounding = 4 * torch.finfo(like.dtype).eps

    def product(vector: Tensor) -> Tensor:
        point = vector.reshape(start.shape).to(like).requires_grad_()
        with torch.enable_grad():
            image = operator(point[None])
            (back,) = torch.autograd.grad(image, point, grad_outputs=image.detach())
        return back.cpu().double().flatten()

    def bounded(run: Tridiagonal) -> Spectral:
        low = max(run.largest(), 0.0)
        high = max(run.largest_at_most(weight), low)
        return Spectral(math.sqrt(low), min(1 - math.sqrt(low / high) + rounding, 1.0) if high > 0 else 0.0)

    def enough(run: Tridiagonal) -> bool:
        return len(run) % CHECKED_EVERY == 0 and bounded(run).error <= tolerance + rounding

    return bounded(lanczos(product, start.flatten(), min(most, max(MOST_NUMBERS // start.numel(), 2)), enough))


def matrix_norm(layer: WeightLayer) -> float:
    """The largest singular value of the weight as a matrix of outputs by everything else."""
    rows = len(layer.weight)
    require_room(4 * 8 * layer.weight.numel(), f"the singular values of {layer.name!r}", FREE)
    work = of_singular_values(rows, layer.weight.numel() / rows)
    require_time(work, f"the singular values of {layer.name!r}", LEAVE)
    return float(torch.linalg.matrix_norm(layer.matrix(), ord=2))


def circular_norm(layer: WeightLayer) -> float:
    """The largest singular value of the convolution with circular padding and stride one at its input size.

    A circular convolution is block diagonal in the Fourier basis, one matrix of outputs by inputs per frequency and
    group. For dense layers and embeddings it is that of the weight. Reference: Sedghi et al. 2019 (arXiv 1805.10408).
    """
    module, sizes = layer.module, layer.input_shape[1:]
    if isinstance(module, (nn.Linear, *EMBEDDINGS)):
        return matrix_norm(layer)
    groups, dilation = int(module.groups), tuple(module.dilation)  # type: ignore[arg-type]
    blocks = layer.weight.detach().cpu().double().unflatten(0, (groups, -1)).to(torch.complex128)
    phases = list(starmap(_phases, zip(sizes, layer.weight.shape[2:], dilation, strict=True)))
    phases[-1] = phases[-1][: sizes[-1] // 2 + 1]  # the other frequencies are conjugate, as the weights are real
    _require_circular(layer, blocks.shape[:3], [len(part) for part in phases])
    largest = 0.0
    for first in phases[0]:  # one at a time, for memory
        response = torch.tensordot(blocks, first, dims=([3], [0]))
        for rest in phases[1:]:
            response = torch.tensordot(response, rest, dims=([3], [1]))
        matrices = response[..., None].flatten(3).permute(0, 3, 1, 2)
        tall = matrices.shape[-2] > matrices.shape[-1]
        gram = matrices.mH @ matrices if tall else matrices @ matrices.mH
        largest = max(largest, float(torch.linalg.eigvalsh(gram)[..., -1].max()))
    return math.sqrt(largest)


def _require_circular(layer: WeightLayer, blocks: Sequence[int], frequencies: Sequence[int]) -> None:
    """Ask for room and time for matrices of all frequencies, so many an axis; `blocks` is (groups, rows, columns)."""
    groups, rows, columns = blocks
    small, large = min(rows, columns), max(rows, columns)
    whose = f"the matrices of all frequencies of {layer.name!r}"
    require_room(16 * groups * math.prod(frequencies[1:]) * (2 * rows * columns + 3 * small**2), whose, FREE)
    work = 4 * groups * math.prod(frequencies) * (small**2 * large + of_eigenvalues(small))  # of complex numbers
    require_time(work, whose, LEAVE)


def _phases(size: int, taps: int, dilation: int) -> Tensor:
    """exp(-2 pi i f j dilation / size) for frequencies f and taps j; shape (size, taps)."""
    turns = torch.outer(torch.arange(size), dilation * torch.arange(taps)) % size
    return torch.polar(torch.ones(size, taps, dtype=torch.float64), -2 * math.pi * turns.double() / size)
