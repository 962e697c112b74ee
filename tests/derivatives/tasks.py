"""Small networks in float64 with labelled inputs, for derivatives and the curvature."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests import networks

Factory = Callable[[], nn.Module]
Task = tuple[nn.Module, Tensor, Tensor]


def small_mlp() -> nn.Module:
    return networks.mlp((6,))


def task(factory: Factory, count: int, scale: float = 1.0) -> Task:
    """A network, inputs, and labels of which some are wrong; `scale` multiplies the last linear layer's weights."""
    model = networks.made(factory).double().eval()
    inputs = networks.token_ids(count) if factory is networks.Tokens else networks.images(count).double()
    targets = networks.mostly_right_targets(model, inputs)
    if scale != 1.0:
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        with torch.no_grad():
            last.weight.mul_(scale)
    return model, inputs, targets


class Once(torch.autograd.Function):
    """Doubles its input; can be differentiated once."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return 2 * gradient


class DifferentiableOnce(nn.Module):
    """Doubles what the hidden layer gives, or the logits."""

    def __init__(self, at_the_end: bool = False) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(networks.CHANNELS * networks.SIDE**2, 3), nn.Linear(3, networks.CLASSES)
        self.at_the_end = at_the_end

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.tanh(self.hidden(images.flatten(1)))
        return Once.apply(self.head(hidden)) if self.at_the_end else self.head(Once.apply(hidden))
