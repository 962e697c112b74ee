from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap.derivatives.time import A_SECOND, MOST_SECONDS
from lightning_gengap.linalg.left_out import left_out
from lightning_gengap.measures.curvature.leave_one_out import multiplications
from tests import networks
from tests.derivatives.tasks import small_mlp, task
from tests.oracles import curvature as oracles
from tests.probes import measured

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


@pytest.mark.parametrize("trained_parts", [("weight", "bias"), ("weight",), ("bias",)], ids=" and ".join)
@pytest.mark.parametrize("subclass", [False, True])
def test_it_is_the_networks_own_where_the_head_alone_is_trained(trained_parts: tuple[str, ...], subclass: bool) -> None:
    class Named(nn.Linear):
        """Another name for the same thing, called by keyword."""

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs @ self.weight.T + self.bias

    def factory() -> nn.Module:
        head = (Named if subclass else nn.Linear)(WIDTH, networks.CLASSES)
        model = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, WIDTH), nn.Tanh(), head).requires_grad_(False)
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
    monkeypatch.setattr("lightning_gengap.linalg.left_out.MOST_NUMBERS", 7 * 30**2)
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
