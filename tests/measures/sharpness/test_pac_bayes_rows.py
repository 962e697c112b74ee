"""The magnitude-aware rows of the PAC-Bayes family, and what is said of a search that has not found its level."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_gengap.measures.sharpness.pac_bayes import pac_bayes
from lightning_gengap.measures.sharpness.weight_noise import Level, find_level
from lightning_gengap.network.folding import folded, folded_initial
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.probes import probing

COUNT, SAMPLES = 40, 1000
E = 1e-3


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


def test_the_magnitude_rows_are_sums_over_weights() -> None:
    model, start = separated(), networks.made(small, 5).double()
    images = networks.images(COUNT).double()
    with probing(
        model, images, model(images).argmax(1), train_samples=SAMPLES, initial_state=copy_state(start)
    ) as probe:
        values = pac_bayes(probe)
        network, initial = probe.cached(folded), probe.cached(folded_initial)
        assert initial is not None
        assert probe.notes == []
    pairs = [
        (w, w0)
        for name in ("0.weight", "4.weight")
        for w, w0 in zip(network.state[name].flatten().tolist(), initial.state[name].flatten().tolist(), strict=True)
    ]
    sigma, count = values["pac_bayes/magnitude_sigma"], len(pairs)
    assert count == 4 * 27 + 72
    for name, square in (
        ("origin", sum(w**2 for w, _ in pairs)),
        ("initial", sum((w - w0) ** 2 for w, w0 in pairs)),
    ):
        spread = E**2 + (sigma**2 + 1) * square / count
        terms = [math.log(spread / (E**2 + sigma**2 * (w - w0) ** 2)) for w, w0 in pairs]
        expected = sum(terms) / 4 + math.log(SAMPLES / sigma) + 10
        assert values[f"pac_bayes/magnitude_{name}"] == pytest.approx(expected, rel=1e-9)


def test_at_the_start_the_magnitude_row_is_finite() -> None:
    model, images = separated(), networks.images(COUNT).double()
    with probing(
        model, images, model(images).argmax(1), train_samples=SAMPLES, initial_state=copy_state(model)
    ) as probe:
        values = pac_bayes(probe)
    # No weight has moved: numerator and denominator are both e^2.
    expected = math.log(SAMPLES / values["pac_bayes/magnitude_sigma"]) + 10
    assert values["pac_bayes/magnitude_initial"] == pytest.approx(expected, rel=1e-9)
    assert values["pac_bayes/magnitude_origin"] > values["pac_bayes/magnitude_initial"]


def test_without_initial_weights_one_note_says_what_is_absent() -> None:
    model, images = separated(), networks.images(COUNT).double()
    with probing(model, images, model(images).argmax(1), train_samples=SAMPLES) as probe:
        values = pac_bayes(probe)
        assert len(probe.notes) == 1
        assert "magnitude_origin, magnitude_initial and bound are absent: the initial weights" in probe.notes[0]
    assert "pac_bayes/origin" in values
    assert not {"pac_bayes/initial", "pac_bayes/magnitude_origin", "pac_bayes/magnitude_initial"} & set(values)
    assert values["pac_bayes/sigma_censored"] == values["pac_bayes/magnitude_sigma_censored"] == 0


@pytest.mark.parametrize(
    ("drop", "found", "censored"),
    [
        (lambda sigma: 0.05, False, True),  # all of the range is tolerated
        (lambda sigma: 0.3, False, False),  # none of it is
        (lambda sigma: 0.0 if sigma < 0.7 else 0.5, False, False),  # the accuracy jumps
        (lambda sigma: 0.1 * sigma, True, False),
        (lambda sigma: 0.052 * sigma, True, False),  # found just below the end
    ],
)
@pytest.mark.parametrize("start", [None, 1e-3, 2.0])
def test_a_level_says_whether_it_was_found_or_lies_beyond_the_range(
    drop: object, found: bool, censored: bool, start: float | None
) -> None:
    level = find_level(drop, start)  # type: ignore[arg-type]
    assert (level.found, level.censored) == (found, censored)
    if censored:
        assert level.value > 1.9


def test_the_tolerance_is_a_hundredth() -> None:
    assert Level(1.0, 0.1099).found
    assert Level(1.0, 0.0901).found
    assert not Level(1.0, 0.1101).found
    assert not Level(1.0, 0.0899).found
