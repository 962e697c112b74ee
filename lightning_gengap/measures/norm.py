"""Log products and sums of the weight layers' Frobenius and spectral norms, batch norm folded (Neyshabur 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_gengap.layers import Ran
from lightning_gengap.probe import Probe
from lightning_gengap.trace import clean_name

ITERATIONS_COLD, ITERATIONS_WARM = 50, 5
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_FREE = (nn.Embedding,)
Operator = Callable[[Tensor], Tensor]


def norm(probe: Probe) -> dict[str, float]:
    """Norms of the folded weights W_i of the linear and convolutional layers, d of them.

    Keys `norm/log_product_spectral` and `norm/log_product_frobenius` (sum of log |W_i|^2), `norm/log_sum_spectral`
    and `norm/log_sum_frobenius` (log d + the mean of log |W_i|^2: d times the geometric mean), and
    `norm/spectral_change`, the largest relative change in the last step of the power iteration, which approaches
    the norm from below. A convolution's spectral norm is that of the operator it applies at its input size, zero
    padding included, not of the reshaped kernel. Absent, with one note, where a parameterised layer is neither
    linear, convolutional nor a batch norm right behind one of its own: its scale would be missing. Unit: log of
    squared weights, unbounded. Products are invariant to ReLU rescaling and, folded, to rescaling before batch norm.
    Cost: a few forwards of one example. Reference: rows 30 to 39 of Jiang et al. 2020 (arXiv 1912.02178).
    """
    modules = {clean_name(name): module for name, module in probe.model.named_modules()}
    try:
        weights = folded_weights(modules, probe.layout.ran)
    except NotFoldableError as reason:
        probe.notes.append(f"norm/* is absent: {reason}")
        return {}
    shapes = {ran.module: ran.input_shape for ran in probe.layout.ran}
    log_spectral, log_frobenius, change = [], [], 0.0
    for name, weight in weights.items():
        spectral, moved = spectral_norm(modules[name], weight, shapes[name], f"norm/{name}", probe)
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


class NotFoldableError(Exception):
    """Why the norms are not defined for this network."""


def folded_weights(modules: dict[str, nn.Module], ran: tuple[Ran, ...]) -> dict[str, Tensor]:
    """Weights of linear and convolutional layers, each scaled by the batch norm that reads its output."""
    if "" in modules and any(p is not None and p.is_floating_point() for p in modules[""]._parameters.values()):
        raise NotFoldableError(f"{type(modules['']).__name__} has parameters outside its layers")
    weights: dict[str, Tensor] = {}
    unfolded = {met.module for met in ran if met.calls == 1}
    for met in ran:
        module = modules[met.module]
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)):
            weights[met.module] = module.weight.detach()
        elif isinstance(module, BATCH_NORMS):
            if met.after not in weights or met.after not in unfolded or met.calls > 1 or module.running_var is None:
                raise NotFoldableError(
                    f"batch norm {met.module!r} does not directly follow a linear or convolutional layer of its own"
                )
            if isinstance(modules[met.after], nn.Linear) and len(met.input_shape) != 1:
                raise NotFoldableError(f"batch norm {met.module!r} does not scale the outputs of {met.after!r}")
            unfolded.remove(met.after)
            scale = (module.running_var + module.eps).rsqrt()
            scale = scale if module.weight is None else scale * module.weight.detach()
            weights[met.after] = _scaled(modules[met.after], weights[met.after], scale)
        elif not isinstance(module, _FREE) and any(p is not None for p in module._parameters.values()):
            raise NotFoldableError(f"{type(module).__name__} {met.module!r} cannot be folded into a weight layer")
    if not weights:
        raise NotFoldableError("the forward calls no linear or convolutional layer")
    return weights


def _scaled(module: nn.Module, weight: Tensor, scale: Tensor) -> Tensor:
    """`weight` of `module` with each output channel multiplied by its entry of `scale`."""
    if not isinstance(module, _TRANSPOSED):
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    # Shape (inputs, outputs per group, ...): the inputs of a group come together.
    grouped = weight.unflatten(0, (module.groups, -1))
    return (grouped * scale.reshape(module.groups, 1, -1, *[1] * (weight.ndim - 2))).flatten(0, 1)


def spectral_norm(
    module: nn.Module, weight: Tensor, input_shape: tuple[int, ...], key: str, probe: Probe
) -> tuple[float, float]:
    """Largest singular value and its last relative change; power iteration, warm from the last measurement."""
    if isinstance(module, nn.Linear):
        return float(torch.linalg.matrix_norm(weight.float(), ord=2)), 0.0
    operator = convolution_operator(module, weight)
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


def convolution_operator(module: nn.Module, weight: Tensor) -> Operator:
    """The linear map that a convolution applies with `weight`, without its bias."""
    if isinstance(module, _TRANSPOSED):
        transpose = getattr(functional, f"conv_transpose{weight.ndim - 2}d")
        return lambda x: transpose(
            x, weight, None, module.stride, module.padding, module.output_padding, module.groups, module.dilation
        )
    assert isinstance(module, _CONVOLUTIONS)
    convolve = getattr(functional, f"conv{weight.ndim - 2}d")
    if module.padding_mode == "zeros":
        return lambda x: convolve(x, weight, None, module.stride, module.padding, module.dilation, module.groups)
    around, groups = module._reversed_padding_repeated_twice, module.groups
    return lambda x: convolve(
        functional.pad(x, around, mode=module.padding_mode), weight, None, module.stride, 0, module.dilation, groups
    )
