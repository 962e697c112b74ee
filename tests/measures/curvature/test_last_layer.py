"""The last layer is found, and known by what it computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm as parametrize_weight_norm

from lightning_gengap.measures.curvature.last_layer import last_layer
from tests import networks
from tests.derivatives.tasks import small_mlp, task
from tests.probes import measured, probing

COUNT, WIDTH, FEATURES = 24, 5, networks.CHANNELS * networks.SIDE**2


@pytest.mark.parametrize("factory", [networks.ResNet, networks.VisionTransformer, networks.Nested, networks.Reused])
def test_the_last_layer_is_found(factory: Callable[[], nn.Module]) -> None:
    model, images, targets = task(factory, COUNT)
    with probing(model, images, targets, chunk=10) as probe:
        layer = last_layer(probe)
    torch.testing.assert_close(layer.logits, model(images).detach())
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    product = layer.features @ torch.cat([last.weight, last.bias[:, None]], dim=1).T
    torch.testing.assert_close(product.detach(), layer.logits)


class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = small_mlp()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images) / 2


class Cosine(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return linear(normalize(inputs), normalize(self.weight), self.bias)


class LowRank(nn.Linear):
    """Low-rank adaptation; at its start it adds nothing."""

    def __init__(self, inputs: int, outputs: int, size: float = 1.0) -> None:
        super().__init__(inputs, outputs)
        self.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(1, inputs))
        self.up = nn.Parameter(size * torch.randn(outputs, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + inputs @ self.down.T @ self.up.T


class Masked(nn.Linear):
    """Its weight is masked in the forward, and zero there already."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.mask = (torch.arange(inputs) % 2).float()
        self.weight.data.mul_(self.mask)

    def forward(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight * self.mask.to(self.weight), self.bias)


class Rounded(nn.Linear):
    """Quantisation-aware: rounded values, straight-through gradients."""

    def forward(self, inputs: Tensor) -> Tensor:
        rounded = self.weight + ((4 * self.weight).round() / 4 - self.weight).detach()
        return linear(inputs, rounded, self.bias)


class Gained(nn.Linear):
    """A trained gain beside the weight."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gain * super().forward(inputs)


class Tied(nn.Module):
    """The last weight is another layer's too."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.first = nn.Flatten(), nn.Linear(FEATURES, networks.CLASSES)
        self.last = nn.Linear(networks.CLASSES, networks.CLASSES)
        self.second = nn.Linear(networks.CLASSES, networks.CLASSES)
        self.second.weight = self.last.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.second(self.first(self.flat(images))).tanh())


def with_head(head: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, WIDTH), nn.Tanh(), head)


def hooked() -> nn.Module:
    model = with_head(nn.Linear(WIDTH, networks.CLASSES))
    model[-1].register_forward_hook(lambda module, args, output: output / 2)
    return model


def pruned(head: nn.Module) -> nn.Module:
    return prune.l1_unstructured(head, "weight", 0.5)


def strange(kind: Callable[[int, int], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: with_head(kind(WIDTH, networks.CLASSES))


STRANGE_HEADS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "cosine": (strange(Cosine), "Cosine '3' does not give what its weight and bias make of its inputs"),
    "low rank": (strange(LowRank), "LowRank '3' has trained parameters beside weight and bias (down)"),
    "low rank at its start": (strange(lambda i, o: LowRank(i, o, 0.0)), "trained parameters beside weight and bias"),
    "masked": (strange(Masked), "depend on the weights of Masked '3' in another way than by a linear layer"),
    "rounded": (strange(Rounded), "Rounded '3' does not give what its weight and bias make of its inputs"),
    "gained": (strange(Gained), "trained parameters beside weight and bias (gain)"),
    "pruned": (strange(lambda i, o: pruned(nn.Linear(i, o))), "the weights of Linear '3' are computed from other"),
    "weight norm": (
        strange(lambda i, o: parametrize_weight_norm(nn.Linear(i, o))),
        "the weights of ParametrizedLinear '3' are computed from other parameters",
    ),
    "tied": (Tied, "depend on the weights of Linear 'last' in another way than by a linear layer"),
    "hooked": (hooked, "Linear '3' does not give what its weight and bias make of its inputs"),
    "log softmax": (lambda: nn.Sequential(small_mlp(), nn.LogSoftmax(dim=1)), "does not yield the logits"),
    "nothing behind": (lambda: nn.Sequential(small_mlp(), nn.Threshold(-100.0, 0.0)), ""),
}


@pytest.mark.parametrize(("factory", "why"), STRANGE_HEADS.values(), ids=STRANGE_HEADS)
def test_a_head_is_known_by_what_it_computes(factory: Callable[[], nn.Module], why: str) -> None:
    found = measured("leave_one_out", *task(factory, COUNT))
    assert bool(found.values) == (not why)
    assert why in found.absent.get("loo/last_layer/*", "")


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, networks.CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def frozen_head() -> nn.Module:
    model = small_mlp()
    model[-1].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        (Temperature, "Linear 'layers.3' does not yield the logits"),
        (convolutional, "no linear layer is called once at the end of the forward"),
        (frozen_head, "'3' is frozen"),
    ],
)
def test_without_a_trained_linear_layer_at_the_end_it_is_absent(factory: Callable[[], nn.Module], why: str) -> None:
    found = measured("leave_one_out", *task(factory, COUNT))
    assert (found.values, found.absent) == ({}, {"loo/last_layer/*": why})
