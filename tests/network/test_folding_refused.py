"""What folding would get wrong is refused by the check on the network itself, with its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_gengap.errors import Undefined
from lightning_gengap.network.folding_check import checked
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.network.pair import Pair
from tests.probes import probing, taken

TARGETS = torch.arange(20) % networks.CLASSES


class PostActivation(Pair):
    def joined(self, images: Tensor) -> Tensor:
        return self.norm(torch.relu(self.conv(images)))


class InPlaceActivation(Pair):
    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images).relu_())


class AfterSum(Pair):
    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images) + images)


class AfterConcatenation(Pair):
    def joined(self, images: Tensor) -> Tensor:
        made = self.conv(images)
        return self.norm(torch.cat([made[:, :2], images[:, :1]], dim=1))


class Twice(Pair):
    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.norm(self.conv(images)))


class Shared(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 3, 3, padding=1)

    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.other(torch.relu(self.norm(self.conv(images)))))


class Forked(Pair):
    """A second reader that hardly shows in the logits."""

    def joined(self, images: Tensor) -> Tensor:
        made = self.conv(images)
        return self.norm(made) + 1e-7 * made


class ForkedWithoutGradient(Pair):
    def joined(self, images: Tensor) -> Tensor:
        made = self.conv(images)
        return self.norm(made) + made.detach()


class StandardisedWeight(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight / self.weight.std(), self.bias)


class Standardised(Pair):
    """A convolution of the right class that applies another weight; it has no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = StandardisedWeight(networks.CHANNELS, 3, 3), nn.Identity()


class ShiftedNorm(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).abs()


class StrangeNorm(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.norm = ShiftedNorm(3)


class UsedTwice(Pair):
    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)) * self.head.weight.mean()


class Hidden(Pair):
    """Parameters in a container that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(1))])

    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)) * self.scales[0]


class Aside(Pair):
    """The convolution is called, and the logits do not depend on it."""

    def joined(self, images: Tensor) -> Tensor:
        self.conv(images)
        return images


class Between(Pair):
    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def joined(self, images: Tensor) -> Tensor:
        return self.operation(self.norm(self.conv(images)))


def attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    weights = (tokens @ tokens.transpose(1, 2)).softmax(dim=-1)
    return (weights @ tokens).transpose(1, 2).reshape(x.shape)


ODD: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "behind an activation": (PostActivation, "batch norm 'norm' does not directly follow"),
    "behind one in place": (InPlaceActivation, "batch norm 'norm' does not directly follow"),
    "behind a sum": (AfterSum, "batch norm 'norm' does not directly follow"),
    "behind a concatenation": (AfterConcatenation, "batch norm 'norm' does not directly follow"),
    "applied twice": (Twice, "batch norm 'norm' does not directly follow"),
    "shared by two layers": (Shared, "batch norm 'norm' does not directly follow"),
    "a second reader": (Forked, "the output of 'conv' is read by more than batch norm 'norm'"),
    "a second reader without gradient": (ForkedWithoutGradient, "gives other logits"),
    "another weight is applied": (Standardised, "StandardisedWeight 'conv' does not apply its weight"),
    "another normalisation": (StrangeNorm, "ShiftedNorm 'norm' does not normalise as a batch norm"),
    "a weight used elsewhere": (UsedTwice, "the parameter 'head.weight' is used outside its layer"),
    "parameters of no layer": (Hidden, "the parameter 'scales.0' is used outside its layer"),
    "a layer aside": (Aside, "the logits do not depend on 'conv'"),
    "instance norm": (lambda: Between(nn.InstanceNorm2d(3)), "normalisation by its own statistics"),
    "layer norm": (lambda: Between(nn.LayerNorm(8, elementwise_affine=False)), "layer norm between"),
    "group norm": (lambda: Between(nn.GroupNorm(1, 3, affine=False)), "group norm between"),
    "attention": (lambda: Between(attention), "a softmax between the layers"),
    "unit vectors": (lambda: Between(functional.normalize), "divided by activations"),
}


MEASURES = ("norm", "complexity", "norm_product", "distance", "bartlett", "path_norm")


@pytest.mark.parametrize("kind", ODD)
def test_what_folding_would_get_wrong_is_absent_with_one_reason(kind: str) -> None:
    factory, reason = ODD[kind]
    model, images = networks.made(factory).double(), networks.images(20).double()
    with probing(model, images, TARGETS, initial_state=copy_state(model), train_samples=50) as probe:
        for name in MEASURES:
            values, absent, *_ = taken(name, probe)
            assert values == {}
            assert [reason in text for text in absent.values()] == [True], name


def test_a_refusal_is_found_once_and_raised_each_time() -> None:
    with probing(networks.made(Forked), networks.images(20), TARGETS) as probe:
        calls: list[int] = []
        probe.model.register_forward_hook(lambda module, args, output: calls.append(1))
        for _ in range(3):
            with pytest.raises(Undefined, match="read by more"):
                probe.cached(checked)
    assert len(calls) == 2
