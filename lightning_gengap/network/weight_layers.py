"""The layers whose weights are a linear map: which they are, and what they apply with given weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LINEAR = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
Operator = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class WeightLayer:
    """A linear, convolutional or embedding layer.

    Attributes:
        name, module: in the network.
        weight: with the batch norm behind the layer folded in; of the shape of `module.weight`.
        input_shape: of one example; empty for embeddings.
        calls: in one forward.
    """

    name: str
    module: nn.Module
    weight: Tensor
    input_shape: tuple[int, ...] = ()
    calls: int = 1

    def minus(self, other: WeightLayer) -> WeightLayer:
        """The layer with the difference of both weights."""
        return replace(self, weight=self.weight - other.weight.to(self.weight))

    def operator(self) -> Operator:
        """The linear map that a linear or convolutional layer applies with this weight, without its bias."""
        return weight_operator(self.module, self.weight)

    def matrix(self) -> Tensor:
        """The weight as a float64 matrix on the CPU; shape (output units, incoming weights).

        An embedding is the linear map of one-hot inputs.
        """
        precise = self.weight.detach().cpu().double()
        if isinstance(self.module, EMBEDDINGS):  # shape (inputs, outputs)
            return precise.T
        if isinstance(self.module, TRANSPOSED):
            precise = _by_group(self.module, precise).transpose(1, 2).flatten(0, 1)
        return precise.flatten(1)


def scaled(module: nn.Module, weight: Tensor, scale: Tensor) -> Tensor:
    """`weight` of `module` with each output channel multiplied by its entry of `scale`, shape (channels,)."""
    if not isinstance(module, TRANSPOSED):
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    by_group = scale.reshape(module.groups, 1, -1, *[1] * (weight.ndim - 2))
    return (_by_group(module, weight) * by_group).flatten(0, 1)


def _by_group(module: nn.Module, weight: Tensor) -> Tensor:
    """A transposed convolution's weight, whose rows are the inputs of one group after another's, apart by group."""
    return weight.unflatten(0, (module.groups, -1))


def weight_operator(module: nn.Module, weight: Tensor) -> Operator:
    """The linear map that a linear or convolutional layer applies with `weight`, without its bias."""
    if isinstance(module, nn.Linear):
        return lambda x: functional.linear(x, weight)
    if isinstance(module, TRANSPOSED):
        transpose = getattr(functional, f"conv_transpose{weight.ndim - 2}d")
        return lambda x: transpose(
            x, weight, None, module.stride, module.padding, module.output_padding, module.groups, module.dilation
        )
    assert isinstance(module, CONVOLUTIONS)
    convolve = getattr(functional, f"conv{weight.ndim - 2}d")
    if module.padding_mode == "zeros":
        return lambda x: convolve(x, weight, None, module.stride, module.padding, module.dilation, module.groups)
    around, groups = module._reversed_padding_repeated_twice, module.groups
    return lambda x: convolve(
        functional.pad(x, around, mode=module.padding_mode), weight, None, module.stride, 0, module.dilation, groups
    )
