"""Norms of every weight layer, batch norm folded: what the measures built on norms add, multiply and divide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import starmap

import torch
from torch import Tensor, nn

from lightning_gengap.measures.margins.margin import margin_signature
from lightning_gengap.measures.margins.margin_metrics import logit_gap
from lightning_gengap.measures.norms.norm import spectral_norm
from lightning_gengap.network.folding_check import initial_weights, verified_weights
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.trace import clean_name
from lightning_gengap.network.weight_layers import NotFoldableError

MARGIN_QUANTILE = 0.1
VARIANTS = ("operator", "reshaped", "fft")
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class LayerNorms:
    """Squared norms of a layer's folded weights W, and of their change W - W0 from the folded initial weights.

    The spectral norm has three variants, which are never mixed. `operator`: that of the map a convolution applies at
    its input size, zero padding and stride included. `reshaped`: the largest singular value of the weights as a matrix
    of outputs by everything else, no operator norm of a convolution. `fft`: that of the convolution at its input size
    with circular padding and stride one. For dense layers all three are one number.

    Attributes:
        weights: their number.
        spectral: by variant, as `moved_spectral`.
        moved_frobenius: None where the initial weights are unknown, as `moved_spectral`.
    """

    weights: int
    frobenius: float
    spectral: dict[str, float]
    moved_frobenius: float | None
    moved_spectral: dict[str, float] | None


def layer_norms(probe: Probe) -> tuple[LayerNorms, ...]:
    """The norms of all linear and convolutional layers; take it through `probe.cached`.

    Cost: a few forwards of one example, and the singular values of every kernel and of its Fourier transform.

    Raises:
        NotFoldableError: a layer cannot be folded, is zero or not finite; the message says which.
    """
    weights, start = verified_weights(probe), initial_weights(probe)
    modules = {clean_name(name): module for name, module in probe.model.named_modules()}
    shapes = {met.module: met.input_shape for met in probe.layout.ran}
    layers = []
    for name, weight in weights.items():
        if not (bool(weight.isfinite().all()) and bool(weight.any())):
            raise NotFoldableError("a weight layer is zero or not finite")
        module, shape = modules[name], shapes.get(name, ())
        moved = None if start is None else weight - start[name].to(weight)
        layers.append(
            LayerNorms(
                weight.numel(),
                squared_frobenius(weight),
                _squared_spectral(module, weight, shape, f"complexity/{name}", probe),
                None if moved is None else squared_frobenius(moved),
                None if moved is None else _squared_spectral(module, moved, shape, f"complexity/start/{name}", probe),
            )
        )
    return tuple(layers)


def log_margin(probe: Probe) -> float | None:
    """Log of the 10 % quantile of the output margin; None where that is not positive."""
    margin = float(logit_gap(probe.cached(margin_signature).logits, probe.targets).quantile(MARGIN_QUANTILE))
    return math.log(margin) if margin > 0 else None


def squared_frobenius(weight: Tensor) -> float:
    """Sum of squares, in float64."""
    return float(weight.cpu().double().square().sum())


def as_matrix(module: nn.Module, weight: Tensor) -> Tensor:
    """`weight` of `module` as a float64 matrix of output units by incoming weights, on the CPU."""
    precise = weight.detach().cpu().double()
    if isinstance(module, _EMBEDDINGS):  # shape (inputs, outputs)
        return precise.T
    if isinstance(module, _TRANSPOSED):  # shape (inputs, outputs per group, ...), the inputs of a group together
        precise = precise.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(0, 1)
    return precise.flatten(1)


def squared_circular_norm(module: nn.Module, weight: Tensor, input_shape: tuple[int, ...]) -> float:
    """The squared norm of the convolution with circular padding and stride one: the largest over all frequencies.

    A circular convolution is block diagonal in the Fourier basis, one matrix of outputs by inputs per frequency and
    group. Reference: Sedghi et al. 2019 (arXiv 1805.10408).
    """
    if isinstance(module, nn.Linear | nn.Embedding | nn.EmbeddingBag):
        return float(torch.linalg.matrix_norm(as_matrix(module, weight), ord=2)) ** 2
    groups, dilation = int(module.groups), tuple(module.dilation)  # type: ignore[arg-type]
    blocks = weight.detach().cpu().double().unflatten(0, (groups, -1)).to(torch.complex128)
    sizes = input_shape[1:]
    phases = list(starmap(_phases, zip(sizes, weight.shape[2:], dilation, strict=True)))
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
    return largest


def _phases(size: int, taps: int, dilation: int) -> Tensor:
    """exp(-2 pi i f j dilation / size) for frequencies f and taps j; shape (size, taps)."""
    turns = torch.outer(torch.arange(size), dilation * torch.arange(taps)) % size
    return torch.polar(torch.ones(size, taps, dtype=torch.float64), -2 * math.pi * turns.double() / size)


def _squared_spectral(
    module: nn.Module, weight: Tensor, shape: tuple[int, ...], key: str, probe: Probe
) -> dict[str, float]:
    return {
        "operator": spectral_norm(module, weight, shape, key, probe)[0] ** 2,
        "reshaped": float(torch.linalg.matrix_norm(as_matrix(module, weight), ord=2)) ** 2,
        "fft": squared_circular_norm(module, weight, shape),
    }
