from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.measures.sharpness.tasks import SAMPLES, separate
from tests.probes import measured

COUNT = 40
E = 1e-3


def test_sigma_is_the_standard_deviation_that_costs_a_tenth() -> None:
    # Sample i is right while 1 + sigma (z_1 - z_2) > 0, respectively 1 + sigma' z > 0: accuracies are normal integrals.
    values = measured("pac_bayes", *separate()).values
    normal = NormalDist()
    slack = 4 * math.sqrt(0.09 / 10 / SAMPLES)
    assert values["pac_bayes/sigma_drop"] == pytest.approx(0.1, abs=0.01)
    assert 1 - normal.cdf(1 / (values["pac_bayes/sigma"] * math.sqrt(2))) == pytest.approx(0.1, abs=0.01 + slack)
    assert 1 - normal.cdf(1 / values["pac_bayes/magnitude_sigma"]) == pytest.approx(0.1, abs=0.01 + slack)


def test_a_warm_start_saves_trials_and_stays_within_the_tolerance() -> None:
    memory: dict[str, Tensor] = {}
    cold = measured("pac_bayes", *separate(), memory=memory).values
    assert set(memory) == {"pac_bayes/sigma", "pac_bayes/magnitude_sigma"}
    assert measured("pac_bayes", *separate(), memory=memory).values == cold
    memory["pac_bayes/sigma"] *= 3
    again = measured("pac_bayes", *separate(), memory=memory).values
    assert again["pac_bayes/sigma"] == pytest.approx(cold["pac_bayes/sigma"], rel=0.15)


@torch.no_grad()
def folded_by_hand(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    scale = model[1].weight / (model[1].running_var + model[1].eps).sqrt()
    bias = model[1].bias + scale * (model[0].bias - model[1].running_mean)
    return [(model[0].weight * scale[:, None, None, None], bias), (model[-1].weight, model[-1].bias)]


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)
    )  # fmt: skip


def separated(seed: int = 0) -> nn.Module:
    """A network that gives half of the samples to each class."""
    model = networks.made(small, seed).double().eval()
    with torch.no_grad():
        logits = model(networks.images(COUNT).double())
        model[-1].bias[0] -= (logits[:, 0] - logits[:, 1]).quantile(0.5)
    return model


@torch.no_grad()
def test_the_rows_are_their_formulas() -> None:
    model, start = separated(), networks.made(small, 5).double()
    images = networks.images(COUNT).double()
    targets = networks.mostly_right_targets(model, images)
    more = {"train_samples": 1000, "initial_state": copy_state(start)}
    values, absent, *_ = measured("pac_bayes", model, images, targets, **more)
    assert absent == {}
    weights, biases = zip(*folded_by_hand(model), strict=True)
    weights_0, biases_0 = zip(*folded_by_hand(start), strict=True)
    w, w_0 = (torch.cat([part.flatten() for part in parts]) for parts in (weights, weights_0))
    b, b_0 = (torch.cat(parts) for parts in (biases, biases_0))
    assert len(w) == 4 * 27 + 72
    moved = float((w - w_0).square().sum())
    sigma, relative = values["pac_bayes/sigma"], values["pac_bayes/magnitude_sigma"]
    divergence = (moved + float((b - b_0).square().sum())) / (2 * sigma**2)
    error = 1 - (0.8 - values["pac_bayes/sigma_drop"])
    expected = {
        "flatness": sigma**-2,
        "magnitude_flatness": relative**-2,
        "bound": error + 4 * math.sqrt((divergence + math.log(2 * 1000 / 0.05)) / 1000),
    }
    for name, square in (("origin", float(w.square().sum())), ("initial", moved)):
        expected[name] = square / (4 * sigma**2) + math.log(1000 / sigma) + 10
        spread = E**2 + (relative**2 + 1) * square / len(w)
        terms = (spread / (E**2 + relative**2 * (w - w_0).square())).log()
        expected[f"magnitude_{name}"] = float(terms.sum()) / 4 + math.log(1000 / relative) + 10
    for name, value in expected.items():
        assert values[f"pac_bayes/{name}"] == pytest.approx(value, rel=1e-9), name


def test_at_the_start_the_magnitude_row_is_finite() -> None:
    model, images = separated(), networks.images(COUNT).double()
    task = model, images, model(images).argmax(1)
    values = measured("pac_bayes", *task, train_samples=1000, initial_state=copy_state(model)).values
    # No weight has moved: numerator and denominator are both e^2.
    expected = math.log(1000 / values["pac_bayes/magnitude_sigma"]) + 10
    assert values["pac_bayes/magnitude_initial"] == pytest.approx(expected, rel=1e-9)
    assert values["pac_bayes/magnitude_origin"] > values["pac_bayes/magnitude_initial"]


MISSING = {
    "start": {"initial", "magnitude_origin", "magnitude_initial", "bound"},
    "samples": {"origin", "initial", "magnitude_origin", "magnitude_initial", "bound"},
}


@pytest.mark.parametrize(
    ("unknown", "reason"), [("start", "initial weights"), ("samples", "number of training samples")]
)
def test_what_needs_an_unknown_is_absent(unknown: str, reason: str) -> None:
    model, images = separated(), networks.images(COUNT).double()
    more = {"train_samples": 1000} if unknown == "start" else {"initial_state": copy_state(model)}
    values, absent, *_ = measured("pac_bayes", model, images, model(images).argmax(1), **more)
    missing = {f"pac_bayes/{name}" for name in MISSING[unknown]}
    assert set(absent) == missing
    assert all(reason in text for text in absent.values())
    assert not missing & set(values)
    assert {"pac_bayes/flatness", "pac_bayes/magnitude_flatness"} <= set(values)
    assert values["pac_bayes/sigma_censored"] == values["pac_bayes/magnitude_sigma_censored"] == 0


def test_no_level_is_searched_while_the_accuracy_is_that_of_a_constant_guess() -> None:
    model, images, targets = separate()
    values, absent, *_ = measured("pac_bayes", model, images, targets.roll(1), train_samples=10)
    assert (values, list(absent)) == ({}, ["pac_bayes/*"])


def test_a_level_beyond_the_range_is_censored_and_has_no_rows() -> None:
    robust = nn.Linear(1, 2).double()  # its inputs are zero and its bias too large for any noise in reach
    with torch.no_grad():
        robust.bias.copy_(torch.tensor([1e3, 0.0]))
        robust.weight.copy_(torch.tensor([[0.0], [1e6]]))
    mixed = torch.cat([torch.zeros(60, 1), torch.full((40, 1), 1e9)]).double()
    targets = torch.cat([torch.zeros(60), torch.ones(40)]).long()
    values, absent, *_ = measured("pac_bayes", robust, mixed, targets, train_samples=10)
    assert values["pac_bayes/sigma_drop"] == 0
    assert values["pac_bayes/sigma"] == pytest.approx(2, rel=1e-3)
    assert values["pac_bayes/sigma_censored"] == 1
    for name in ("flatness", "origin", "initial", "bound"):
        assert f"pac_bayes/{name}" not in values
        assert absent[f"pac_bayes/{name}"] == "no noise level in reach costs a drop of 0.1 +- 0.01"
