from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm as parametrize_weight_norm

from lightning_gengap.derivatives.time import A_SECOND, MOST_SECONDS
from lightning_gengap.linalg.leverage import left_out
from lightning_gengap.measures.curvature.leave_one_out import last_layer, multiplications
from tests import networks
from tests.derivatives.tasks import small_mlp, task
from tests.oracles import curvature as oracles
from tests.probes import measured, probing

COUNT, RIDGE = 24, 1e-2
WIDTH, FEATURES = 5, networks.CHANNELS * networks.SIDE**2


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


@pytest.mark.parametrize("trained_parts", [("weight", "bias"), ("weight",), ("bias",)], ids=" and ".join)
@pytest.mark.parametrize("subclass", [False, True])
def test_it_is_the_networks_own_where_the_head_alone_is_trained(trained_parts: tuple[str, ...], subclass: bool) -> None:
    class Named(nn.Linear):
        """Another name for the same thing, called by keyword."""

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs @ self.weight.T + self.bias

    def factory() -> nn.Module:
        model = with_head((Named if subclass else nn.Linear)(WIDTH, networks.CLASSES)).requires_grad_(False)
        for part in trained_parts:
            getattr(model[-1], part).requires_grad_()
        return model

    model, images, targets = task(factory, COUNT)
    last = measured("leave_one_out", model, images, targets, ridge=RIDGE).values
    everywhere = measured("network_leave_one_out", model, images, targets, ridge=RIDGE).values
    for name in ("loss_gap", "accuracy_gap", "leverage"):
        assert last[f"loo/last_layer/{name}"] == pytest.approx(everywhere[f"loo/network/{name}"], rel=1e-7, abs=1e-12)


def test_many_classes_go_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 30))
    inputs, targets = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 30
    whole = values_of(model, inputs, targets)
    monkeypatch.setattr("lightning_gengap.linalg.leverage.MOST_NUMBERS", 7 * 30**2)
    assert values_of(model, inputs, targets) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("count", [30, 300])
def test_without_room_it_is_absent(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, targets = task(small_mlp, count)
    monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda: 2**16)
    found = measured("leave_one_out", model, images, targets)
    assert found.values == {}
    assert "would not fit into memory: they take" in found.absent["loo/last_layer/*"]


def test_what_would_take_minutes_is_absent_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 30))
    inputs, targets = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 30
    monkeypatch.setattr("lightning_gengap.derivatives.time.A_SECOND", 40 * 4 * 30**3 / 60)
    monkeypatch.setattr("lightning_gengap.measures.curvature.leave_one_out.left_out", None)
    for measure, keys in (("leave_one_out", "loo/last_layer/*"), ("network_leave_one_out", "loo/network/*")):
        monkeypatch.setattr("lightning_gengap.derivatives.time.MOST_SECONDS", 59.9)
        found = measured(measure, model, inputs, targets)
        assert found.values == {}
        minutes = {"leave_one_out": 2, "network_leave_one_out": 1}[measure]  # the former's layer has a solve, too
        why = f"the leverages of 40 samples and 30 classes would take {minutes} minutes of one core; use fewer samples"
        assert found.absent == {keys: why}


@pytest.mark.parametrize(("samples", "classes", "absent"), [(1024, 500, False), (1024, 1000, True), (128, 1000, False)])
def test_a_thousand_classes_are_too_many_for_a_thousand_samples(samples: int, classes: int, absent: bool) -> None:
    seconds = multiplications(samples, 512, classes) / A_SECOND
    assert (seconds > MOST_SECONDS) == absent


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
