"""The linear and convolutional layers of a network: their weights, batch norm folded, and the maps that they apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from lightning_gengap.errors import Undefined
from lightning_gengap.network.layers import CalledModule

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
Operator = Callable[[Tensor], Tensor]


class NotFoldableError(Undefined):
    """Why the norms are not defined for this network."""


def folded_weights(modules: dict[str, nn.Module], ran: tuple[CalledModule, ...]) -> dict[str, Tensor]:
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
            weights[met.after] = _scaled(modules[met.after], weights[met.after], scale_of(module))
        elif any(p is not None for p in module._parameters.values()):
            raise NotFoldableError(f"{type(module).__name__} {met.module!r} cannot be folded into a weight layer")
    if not weights:
        raise NotFoldableError("the forward calls no linear or convolutional layer")
    return weights


def scale_of(norm: Any) -> Tensor:
    """What a batch norm in eval mode multiplies every channel by."""
    scale: Tensor = (norm.running_var + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight.detach()


def folded_bias(norm: Any, layer: Any) -> Tensor:
    """What a layer's outputs have added once the batch norm behind it is folded."""
    moved: Tensor = -norm.running_mean if layer.bias is None else layer.bias.detach() - norm.running_mean
    return scale_of(norm) * moved + (0.0 if norm.bias is None else norm.bias.detach())


def _scaled(module: nn.Module, weight: Tensor, scale: Tensor) -> Tensor:
    """`weight` of `module` with each output channel multiplied by its entry of `scale`."""
    if not isinstance(module, _TRANSPOSED):
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    # Shape (inputs, outputs per group, ...): the inputs of a group come together.
    grouped = weight.unflatten(0, (module.groups, -1))
    return (grouped * scale.reshape(module.groups, 1, -1, *[1] * (weight.ndim - 2))).flatten(0, 1)


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


def weight_operator(module: nn.Module, weight: Tensor) -> Operator:
    """The linear map that a linear or convolutional layer applies with `weight`, without its bias."""
    if isinstance(module, nn.Linear):
        return lambda x: functional.linear(x, weight)
    return convolution_operator(module, weight)
