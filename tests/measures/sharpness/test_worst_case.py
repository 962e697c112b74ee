from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from lightning_gengap.measures.sharpness.weight_noise import fit_at
from lightning_gengap.measures.sharpness.worst_case import ascent, keskar_box
from lightning_gengap.network.folding import folded
from tests.measures.sharpness.tasks import SAMPLES, separate, trained, wide
from tests.probes import measured, probing, taken


def test_the_worst_case_of_a_linear_model_is_at_a_corner_of_the_box() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(2, 3).double()
    inputs, targets = torch.randn(9, 2, generator=generator).double(), torch.arange(9) % 3
    epsilon = 0.01
    weights = {name: value.detach() for name, value in model.named_parameters()}
    flat = torch.cat([value.flatten() for value in weights.values()])
    worst = -math.inf
    for signs in itertools.product((-1.0, 1.0), repeat=9):
        moved = flat + epsilon * torch.tensor(signs) * (flat.abs() + 1)
        logits = inputs @ moved[:6].reshape(3, 2).T + moved[6:]
        worst = max(worst, float(nn.functional.cross_entropy(logits, targets)))
    with probing(model, inputs, targets, chunk=4) as probe:
        found = max(fit.loss for fit in ascent(probe, probe.cached(folded), keskar_box(epsilon)))
    assert found == pytest.approx(worst, rel=1e-9)


def test_worst_case_sharpness_is_keskars_ratio() -> None:
    with probing(*trained(wide)) as probe:
        values = taken("worst_case", probe).values
        clean = fit_at(probe).loss
        worst = max(fit.loss for fit in ascent(probe, probe.cached(folded), keskar_box(1e-3)))
    assert worst > clean
    assert values["worst_case/sharpness"] == pytest.approx(100 * (worst - clean) / (1 + clean), rel=1e-9)


def test_the_tolerated_box_flips_a_tenth_of_the_margins() -> None:
    # Weights 1 and b >= 0 per sample: the worst of a proportional box flips it when 1 - a < b (1 + a).
    rivals = torch.linspace(0.0, 0.8, SAMPLES)
    values = measured("worst_case", *separate(rivals)).values
    flips = ((1 - rivals) / (1 + rivals) < values["worst_case/alpha"]).double().mean()
    assert values["worst_case/alpha_drop"] == pytest.approx(float(flips), abs=1e-9)
    assert values["worst_case/alpha_drop"] == pytest.approx(0.1, abs=0.01)
    assert values["worst_case/flatness"] == pytest.approx(values["worst_case/alpha"] ** -2)


def test_no_box_is_searched_while_the_accuracy_is_that_of_a_constant_guess() -> None:
    model, images, targets = separate()
    values, absent, *_ = measured("worst_case", model, images, targets.roll(1))
    assert list(values) == ["worst_case/sharpness", "worst_case/sharpness_0.0005"]
    reason = "the accuracy is not a tenth above that of a constant guess yet"
    assert absent == dict.fromkeys(("worst_case/alpha*", "worst_case/flatness"), reason)
