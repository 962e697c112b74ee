from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap.linalg.leverage import left_out
from lightning_gengap.measures.curvature.leave_one_out import last_layer
from tests import networks
from tests.derivatives.tasks import small_mlp, task
from tests.oracles import curvature as oracles
from tests.probes import measured, probing

COUNT, RIDGE = 24, 1e-2


def values_of(model: nn.Module, inputs: Tensor, targets: Tensor, **more: object) -> dict[str, float]:
    """The values without their common prefix, of which nothing has to be said."""
    found = measured("leave_one_out", model, inputs, targets, **{"ridge": RIDGE, **more})
    assert (found.absent, found.remarks) == ({}, [])
    return {key.removeprefix("loo/last_layer/"): value for key, value in found.values.items()}


def expected_gaps(model: nn.Sequential, images: Tensor, targets: Tensor, ridge: float | Tensor) -> list[float]:
    """Gaps in loss and accuracy by the explicit Jacobian of the last layer."""
    head, features = nn.Sequential(nn.Flatten(), model[-1]), model[:-1](images).detach()
    logits = model(images).detach()
    left = left_out(logits, targets, oracles.leverage_blocks(head, features, ridge)).logits
    hits = [float((of.argmax(1) == targets).double().mean()) for of in (logits, left)]
    return [float(cross_entropy(left, targets) - cross_entropy(logits, targets)), hits[0] - hits[1]]


def test_values_by_hand() -> None:
    model, images, targets = task(networks.cnn, COUNT)
    values = values_of(model, images, targets, chunk=7)
    loss, accuracy = expected_gaps(model, images, targets, RIDGE)
    assert values["loss_gap"] == pytest.approx(loss, rel=1e-9)
    assert values["accuracy_gap"] == pytest.approx(accuracy, abs=1e-12)
    assert 0 <= values["leverage"] <= 1
    assert (values["exact"], values["samples"]) == (1, COUNT)


@pytest.mark.parametrize("count", [5, 24])
def test_few_samples_of_a_wide_layer_are_exact_too(count: int) -> None:
    model, images, targets = task(lambda: networks.mlp((16,)), count)
    ridge = {"3.weight": torch.rand(4, 16, generator=torch.Generator().manual_seed(0)) + 0.1, "3.bias": torch.ones(())}
    ridge |= {name: torch.ones(()) for name in ("1.weight", "1.bias")}
    flat = torch.cat([ridge["3.weight"].flatten(), torch.ones(4)]).double()
    values = values_of(model, images, targets, ridge=ridge)
    assert values["loss_gap"] == pytest.approx(expected_gaps(model, images, targets, flat)[0], rel=1e-6)
    assert values["exact"] == 1


@pytest.mark.parametrize(("width", "exact"), [(512, 1), (520, 0)])
def test_512_features_and_ten_classes_are_exact_more_are_not(width: int, exact: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(width, 10))
    inputs = torch.randn(30, width, generator=torch.Generator().manual_seed(0))
    assert values_of(model, inputs, torch.arange(30) % 10)["exact"] == exact


def test_rescaling_the_last_relu_layer_changes_nothing_only_if_the_ridge_is_rescaled() -> None:
    model, images, targets = task(small_mlp, COUNT)
    plain = {name: torch.tensor(RIDGE) for name, _ in model.named_parameters()}
    before = values_of(model, images, targets, ridge=plain)["loss_gap"]
    with torch.no_grad():
        for part, factor in ((model[1].weight, 3), (model[1].bias, 3), (model[3].weight, 1 / 3)):
            part.mul_(factor)
    ridges = (plain, plain | {"3.weight": torch.tensor(9 * RIDGE)})
    same, rescaled = (values_of(model, images, targets, ridge=ridge)["loss_gap"] for ridge in ridges)
    assert same != pytest.approx(before, rel=1e-2)
    assert rescaled == pytest.approx(before, rel=1e-5)  # the ridge is given in float32


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


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, networks.CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def frozen_head() -> nn.Module:
    model = small_mlp()
    model[-1].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        (Temperature, "'layers.3' does not yield the logits"),
        (convolutional, "no linear layer is called once at the end of the forward"),
        (frozen_head, "'3' is frozen"),
    ],
)
def test_without_a_trained_linear_layer_at_the_end_it_is_absent(factory: Callable[[], nn.Module], why: str) -> None:
    found = measured("leave_one_out", *task(factory, COUNT))
    assert (found.values, found.absent) == ({}, {"loo/last_layer/*": why})
