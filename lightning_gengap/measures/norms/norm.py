"""Log products and sums of the weight layers' Frobenius and spectral norms, batch norm folded (Neyshabur 2017)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_gengap.network.folding_check import verified_weights
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.trace import clean_name
from lightning_gengap.network.weight_layers import NotFoldableError, Operator, convolution_operator

__all__ = ["NotFoldableError", "norm", "operator_norm", "power_iteration", "spectral_norm"]
ITERATIONS_COLD, ITERATIONS_WARM = 50, 5


def norm(probe: Probe) -> dict[str, float]:
    """Norms of the folded weights W_i of the linear, convolutional and embedding layers, d of them.

    Keys `norm/log_product_spectral` and `norm/log_product_frobenius` (sum of log |W_i|^2), `norm/log_sum_spectral`
    and `norm/log_sum_frobenius` (log d + the mean of log |W_i|^2: d times the geometric mean), and
    `norm/spectral_change`, the largest relative change in the last step of the power iteration, which approaches
    the norm from below. A convolution's spectral norm is that of the operator it applies at its input size, zero
    padding included, not of the reshaped kernel. An embedding of the integer inputs counts as the linear map of one-hot
    vectors. Absent, with one note, where a scale would be missing: a parameterised layer is none of these nor a batch
    norm right behind one of its own; the folded layers, run in place of the network's on up to 8 samples, do not give
    its logits; embedded positions, attention, normalisation by the samples' own statistics. Unit: log of squared
    weights, unbounded. Products are invariant to ReLU rescaling and, folded, to rescaling before batch norm.
    Cost: a few forwards of one example, and three of eight. Reference: rows 30 to 39 of Jiang et al. 2020 (arXiv
    1912.02178).
    """
    modules = {clean_name(name): module for name, module in probe.model.named_modules()}
    try:
        weights = verified_weights(probe)
    except NotFoldableError as reason:
        probe.notes.append(f"norm/* is absent: {reason}")
        return {}
    shapes = {met.module: met.input_shape for met in probe.layout.ran}
    log_spectral, log_frobenius, change = [], [], 0.0
    for name, weight in weights.items():
        spectral, moved = spectral_norm(modules[name], weight, shapes.get(name, ()), f"norm/{name}", probe)
        log_spectral.append(2 * math.log(spectral) if spectral > 0 else math.nan)
        log_frobenius.append(float(weight.double().square().sum().log()))
        change = max(change, moved)
    if not all(map(math.isfinite, log_spectral + log_frobenius)):
        probe.notes.append("norm/* is absent: a weight layer is zero or not finite")
        return {}
    values = {"norm/spectral_change": change}
    for kind, logs in (("spectral", log_spectral), ("frobenius", log_frobenius)):
        values[f"norm/log_product_{kind}"] = math.fsum(logs)
        values[f"norm/log_sum_{kind}"] = math.log(len(logs)) + math.fsum(logs) / len(logs)
    return values


def spectral_norm(
    module: nn.Module, weight: Tensor, input_shape: tuple[int, ...], key: str, probe: Probe
) -> tuple[float, float]:
    """Largest singular value and its last relative change; power iteration, warm from the last measurement."""
    if isinstance(module, nn.Linear):
        return float(torch.linalg.matrix_norm(weight.float(), ord=2)), 0.0
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):  # tall: its Gram matrix is small
        tall = weight.cpu().double()
        return float(torch.linalg.eigvalsh(tall.mT @ tall)[-1].clamp(min=0).sqrt()), 0.0
    return operator_norm(convolution_operator(module, weight), weight, input_shape, key, probe)


def operator_norm(
    operator: Operator, weight: Tensor, input_shape: tuple[int, ...], key: str, probe: Probe
) -> tuple[float, float]:
    """Largest singular value of a linear map of tensors like `weight`, by a power iteration, and its last change."""
    start = probe.memory.get(key)
    warm = start is not None and start.shape == input_shape
    if start is None or not warm:
        generator = torch.Generator().manual_seed(probe.seed)
        start = torch.randn(input_shape, generator=generator)
    value, moved, vector = power_iteration(operator, start.to(weight), ITERATIONS_WARM if warm else ITERATIONS_COLD)
    probe.memory[key] = vector.cpu()
    return value, moved


def power_iteration(operator: Operator, start: Tensor, iterations: int) -> tuple[float, float, Tensor]:
    """Largest singular value of a linear operator, from below; its last relative change; the last vector."""
    vector = start / start.norm().clamp(min=torch.finfo(start.dtype).tiny)
    value, moved = 0.0, 1.0
    for _ in range(iterations):
        point = vector.detach().requires_grad_()
        image = operator(point[None])
        norm = float(image.detach().norm())
        moved = abs(norm - value) / norm if norm > 0 else 0.0
        value = norm
        if norm == 0.0:
            break
        (back,) = torch.autograd.grad(image, point, grad_outputs=image.detach())
        vector = back / back.norm()
    return value, moved, vector
