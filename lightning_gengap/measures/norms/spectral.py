"""Spectral norms of weight layers: of the map that a layer applies, and of a circular convolution."""

from __future__ import annotations

import math
from itertools import starmap

import torch
from torch import Tensor, nn

from lightning_gengap.network.probe import Probe
from lightning_gengap.network.weight_layers import EMBEDDINGS, Operator, WeightLayer

ITERATIONS_COLD, ITERATIONS_WARM = 50, 5


def spectral_norm(layer: WeightLayer, key: str, probe: Probe) -> tuple[float, float]:
    """The largest singular value of the map that the layer applies, and its last relative change.

    That of a convolution is found by a power iteration, which starts from the last measurement's vector; it is kept in
    the probe's memory under `key`.
    """
    if isinstance(layer.module, nn.Linear):
        return float(torch.linalg.matrix_norm(layer.weight.float(), ord=2)), 0.0
    if isinstance(layer.module, EMBEDDINGS):  # tall: its Gram matrix is small
        tall = layer.weight.cpu().double()
        return float(torch.linalg.eigvalsh(tall.mT @ tall)[-1].clamp(min=0).sqrt()), 0.0
    return operator_norm(layer.operator(), layer, key, probe)


def operator_norm(operator: Operator, layer: WeightLayer, key: str, probe: Probe) -> tuple[float, float]:
    """The same of any linear map of the layer's inputs, by a power iteration."""
    start, steps = probe.memory.get(key), ITERATIONS_WARM
    if start is None or start.shape != layer.input_shape:
        start = torch.randn(layer.input_shape, generator=torch.Generator().manual_seed(probe.seed))
        steps = ITERATIONS_COLD
    value, change, vector = power_iteration(operator, start.to(layer.weight), steps)
    probe.memory[key] = vector.cpu()
    return value, change


def power_iteration(operator: Operator, start: Tensor, iterations: int) -> tuple[float, float, Tensor]:
    """The largest singular value of a linear operator, from below; its last relative change; the last vector."""
    vector = start / start.norm().clamp(min=torch.finfo(start.dtype).tiny)
    value, change = 0.0, 1.0
    for _ in range(iterations):
        point = vector.detach().requires_grad_()
        image = operator(point[None])
        norm = float(image.detach().norm())
        change = abs(norm - value) / norm if norm > 0 else 0.0
        value = norm
        if norm == 0.0:
            break
        (back,) = torch.autograd.grad(image, point, grad_outputs=image.detach())
        vector = back / back.norm()
    return value, change, vector


def matrix_norm(layer: WeightLayer) -> float:
    """The largest singular value of the weight as a matrix of outputs by everything else."""
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


def _phases(size: int, taps: int, dilation: int) -> Tensor:
    """exp(-2 pi i f j dilation / size) for frequencies f and taps j; shape (size, taps)."""
    turns = torch.outer(torch.arange(size), dilation * torch.arange(taps)) % size
    return torch.polar(torch.ones(size, taps, dtype=torch.float64), -2 * math.pi * turns.double() / size)
