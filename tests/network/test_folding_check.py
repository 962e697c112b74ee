"""What is folded rightly is accepted by the check on the network itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import fusion

from lightning_gengap.errors import Undefined
from lightning_gengap.network.folding import folded
from lightning_gengap.network.folding_check import FEW, checked
from lightning_gengap.network.probe import Probe
from lightning_gengap.zoo.train.architectures import ARCHITECTURES
from lightning_gengap.zoo.train.shape import Shape
from tests import networks
from tests.network.pair import Pair
from tests.probes import probing, taken

TARGETS = torch.arange(20) % networks.CLASSES


def weights_of(probe: Probe) -> dict[str, Tensor]:
    return {name: layer.weight for name, layer in probe.cached(checked).layers.items()}


def refusal(model: nn.Module, inputs: Tensor | None = None) -> str | None:
    inputs = networks.images(20).double() if inputs is None else inputs
    with probing(model.double(), inputs, TARGETS) as probe:
        try:
            probe.cached(checked)
        except Undefined as undefined:
            return undefined.reason
    return None


def test_the_order_of_registration_does_not_matter() -> None:
    model = networks.made(Pair).double().eval()
    with probing(model, networks.images(20).double(), TARGETS) as probe:
        weights = weights_of(probe)
    assert list(weights) == ["conv", "head"]
    torch.testing.assert_close(weights["conv"], fusion.fuse_conv_bn_eval(model.conv, model.norm).weight.detach())


class ActivatedNorm(nn.BatchNorm2d):
    """A batch norm that applies an activation of its own, which writes in place."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(inputs)))


def test_a_batch_norm_may_hold_its_activation() -> None:
    def made(*norm: nn.Module) -> nn.Module:
        pool = nn.AdaptiveAvgPool2d(1)
        layers = nn.Conv2d(3, 4, 3), *norm, nn.Conv2d(4, 4, 3), pool, nn.Flatten(), nn.Linear(4, networks.CLASSES)
        return nn.Sequential(*layers)

    found = []
    for norm in ([ActivatedNorm(4)], [nn.BatchNorm2d(4), nn.ReLU()]):
        model = networks.made(lambda norm=norm: made(*norm))
        with probing(model.double().eval(), networks.images(20).double(), TARGETS) as probe:
            found.append(list(weights_of(probe).values()))
    assert len(found[0]) == 3
    torch.testing.assert_close(*found)


def fused(model: nn.Module) -> nn.Module:
    """A copy in which torch's own fusion has folded each batch norm into the layer registered before it."""
    twin = copy.deepcopy(model).eval()
    before: tuple[Any, str] | None = None
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d | nn.Linear):
                before = parent, name
            elif isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                assert before is not None
                layer = getattr(*before)
                fuse = fusion.fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fusion.fuse_conv_bn_eval
                setattr(*before, fuse(layer, child))
                setattr(parent, name, nn.Identity())
    return twin


@pytest.mark.parametrize("family", ["cnn", "mlp", "mobilenet", "resnet", "vgg"])
@pytest.mark.parametrize("norms", [True, False])
def test_the_zoo_is_folded_and_keeps_its_logits(family: str, norms: bool) -> None:
    model = (
        networks.made(lambda: ARCHITECTURES[family].build(Shape(3, 8, networks.CLASSES, 4, 2, 0.1, norms)))
        .double()
        .eval()
    )
    images, twin = networks.images(20).double(), fused(model)
    torch.testing.assert_close(twin(images), model(images))
    with probing(model, images, TARGETS, chunk=7) as probe:
        weights = weights_of(probe)
        state = probe.cached(folded).state
        logits = torch.cat([probe.logits_on(batch.content, len(batch.targets), state) for batch in probe.batches])
    assert (logits - model(images)).abs().max() < 1e-4
    expected = {name: m.weight for name, m in twin.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name].detach())


@pytest.mark.parametrize(
    ("family", "group_norm"),
    [("vit", False), ("convnext", False), ("mixer", False), ("resnet", True), ("mobilenet", True)],
)
def test_layer_and_group_norms_are_refused(family: str, group_norm: bool) -> None:
    model = networks.made(
        lambda: ARCHITECTURES[family].build(Shape(3, 8, networks.CLASSES, 4, 2, 0.1, True, group_norm))
    )
    assert refusal(model) is not None


@pytest.mark.parametrize("factory", [networks.cnn_with_batch_norm, networks.VGG, networks.ResNet, networks.Reused])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_single_and_half_precision_are_no_reason_to_refuse(
    factory: Callable[[], nn.Module], precision: torch.dtype
) -> None:
    with probing(networks.made(factory).to(precision), networks.images(20).to(precision), TARGETS) as probe:
        assert probe.cached(checked).layers


class Fixed(nn.Module):
    """A body that is run without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = networks.cnn(), nn.Linear(networks.CLASSES, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            seen = self.body(images)
        return self.head(torch.relu(seen))


@pytest.mark.parametrize("factory", [lambda: networks.cnn_with_batch_norm().requires_grad_(False), Fixed])
def test_frozen_layers_and_those_without_gradient_are_folded(factory: Callable[[], nn.Module]) -> None:
    assert refusal(networks.made(factory)) is None


class Tied(nn.Module):
    """Two convolutions with one weight, each with a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.second.weight = self.first.weight
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
        self.head = nn.Linear(3, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        seen = torch.relu(self.norms[0](self.first(images)))
        return self.head(torch.relu(self.norms[1](self.second(seen))).mean(dim=(2, 3)))


def test_layers_with_one_weight_are_folded_each_by_its_norm_but_have_no_network_of_powers() -> None:
    model = networks.made(Tied).double().eval()
    with probing(model, networks.images(20).double(), TARGETS) as probe:
        weights = weights_of(probe)
        for layer, batch_norm in zip(("first", "second"), model.norms, strict=True):
            fusion_of = fusion.fuse_conv_bn_eval(model.get_submodule(layer), batch_norm)
            torch.testing.assert_close(weights[layer], fusion_of.weight.detach())
        values, absent, *_ = taken("path_norm", probe)
    assert (values, absent) == ({}, {"path_norm/log*": "the weight of 'first' is another layer's too"})


@pytest.mark.parametrize("samples", [3, 20])
def test_nothing_stays_behind_and_few_samples_are_run(samples: int) -> None:
    model, images = networks.made(networks.cnn_with_batch_norm), networks.images(samples)
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    with probing(model, images, TARGETS[:samples]) as probe:
        sizes.clear()
        weights_of(probe)
        weights_of(probe)
        assert sizes == [min(samples, FEW)] * 2  # the guard makes hooks forget
    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
