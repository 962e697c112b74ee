"""What the measures of weights and weight noise must not see, and what they do see, under equal functions and scales.

Three changes of a network: (a) its last layer scaled, bias included, so that the classes stay; (b) a layer scaled and
the one behind its ReLU scaled back, so that the function stays; (c) weights scaled before a batch norm, likewise.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_gengap.measures import compute
from lightning_gengap.network.folding import folded
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.oracles import measures as measure_oracles
from tests.probes import probing

COUNT = 40
NAMES = (
    *("norm", "complexity", "norm_product", "path_norm", "bartlett", "distance"),
    *("pac_bayes", "sharpness", "adaptive_sharpness", "worst_case"),
)
CHANGES: dict[str, Callable[[nn.Sequential], None]] = {
    "a": lambda model: measure_oracles.scale_last_layer(model[6], 0.05),
    "b": lambda model: measure_oracles.rescale_relu(model[4], model[6], 3.0),
    "c": lambda model: measure_oracles.rescale_batch_norm(model[0], model[1], 3.0),
}
# Keys, and the changes that leave them alone; every other change must move them. What is not here may do either:
# accuracy drops under noise of a fixed size, which are coarse, and flags.
UNMOVED = {
    r"norm/log_.*": "bc",
    r"complexity/parameters": "abc",
    r"complexity/inverse_margin": "bc",
    r"complexity/.*_over_margin.*": "abc",
    r"complexity/frobenius_over_spectral.*": "abc",
    r"complexity/log_spectral_origin.*": "abc",
    r"complexity/log_spectral_initial.*": "c",
    r"complexity/log_(product|sum)_spectral(_reshaped|_fft)": "bc",
    r"complexity/distance_.*": "c",
    r"norm_product/log_(1_infinity|3_1.5|operator_1.5|trace)": "bc",
    r"norm_product/log_.*_over_margin": "abc",
    r"norm_product/log_bound_(1_infinity|frobenius|3_1.5)": "abc",
    r"norm_product/log_bound_spectral_.*": "c",
    r"path_norm/log(_1|_1.5)?": "bc",
    r"path_norm/log.*_over_margin": "abc",
    r"bartlett/(identity_)?(q05|q10|median)": "abc",
    r"bartlett/log_complexity(_identity)?": "bc",
    r"distance/.*": "c",
    r"pac_bayes/(sigma|flatness|origin|initial|bound)": "c",
    r"pac_bayes/magnitude_(sigma|flatness)": "abc",
    r"pac_bayes/magnitude_(origin|initial)": "c",
    r"sharpness/(expected|kl|kl_initial)_0.\d+": "c",
    r"sharpness/adaptive_0.\d+": "bc",
    r"sharpness/adaptive_.*_drop": "abc",
    r"adaptive_sharpness/(normal|uniform)_0.\d+": "bc",
    r"adaptive_sharpness/.*_(drop|normalized)": "abc",
    r"worst_case/sharpness.*": "c",
    r"worst_case/(alpha|flatness)": "bc",
}
FREE = r"(norm/spectral_change|.*_censored|sharpness/expected_.*_drop|(pac_bayes|worst_case)/.*_drop)"
# Noise on weights at zero has the fixed deviation e = 0.001, and searches end within a tolerance.
LOOSE = r"pac_bayes/magnitude_.*|worst_case/(alpha|flatness)"


def build() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(36, 48), nn.ReLU(), nn.Linear(48, 4),
    )  # fmt: skip


@functools.cache
def network() -> nn.Sequential:
    """A network that predicts four equal classes of forty samples."""
    model, images = networks.made(build).double().eval(), networks.images(COUNT).double()
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        features = torch.cat([model[:-1](images), torch.ones(COUNT, 1).double()], dim=1)
        goal = 4 * torch.eye(4).double()[torch.arange(COUNT) % 4]
        solution = torch.linalg.lstsq(features, goal, driver="gelsd").solution
        model[-1].weight.copy_(solution[:-1].T)
        model[-1].bias.copy_(solution[-1])
    return model


@functools.cache
def measured(change: str) -> dict[str, float]:
    model = copy.deepcopy(network())
    if change:
        CHANGES[change](model)
    initial = copy_state(networks.made(build, seed=5).double())
    task = model, networks.images(COUNT).double(), torch.arange(COUNT) % 4
    with probing(*task, initial_state=initial, train_samples=1000) as probe:
        values = compute(probe, NAMES).values
        assert probe.notes == []
    return values


def rule(key: str) -> str | None:
    """The changes that leave the key alone; None where nothing is promised."""
    found = [changes for pattern, changes in UNMOVED.items() if re.fullmatch(pattern, key)]
    assert len(found) + bool(re.fullmatch(FREE, key)) == 1, key
    return found[0] if found else None


@pytest.mark.parametrize("change", CHANGES)
def test_what_must_not_be_seen_is_not_seen(change: str) -> None:
    before, after = measured(""), measured(change)
    assert set(after) == set(before)
    for key, value in before.items():
        if change in (rule(key) or ""):
            tolerance = 0.1 if re.fullmatch(LOOSE, key) else 1e-6
            assert after[key] == pytest.approx(value, rel=tolerance, abs=1e-9), key


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_seen_is_seen(change: str) -> None:
    before, after = measured(""), measured(change)
    for key, value in before.items():
        promise = rule(key)
        if promise is not None and change not in promise:
            assert after[key] != pytest.approx(value, rel=1e-5, abs=1e-9), key


def test_every_rule_holds_for_some_key() -> None:
    keys = measured("")
    assert all(any(re.fullmatch(pattern, key) for key in keys) for pattern in UNMOVED)


def test_an_equal_function_that_is_not_folded_would_be_seen() -> None:
    """The weights as they are, before folding, do not stay: folding is what makes (c) invisible."""
    model = copy.deepcopy(network())
    images, targets = networks.images(COUNT).double(), torch.arange(COUNT) % 4
    sizes = []
    for _ in range(2):
        with probing(model, images, targets) as probe:
            plain = float(model[0].weight.detach().square().sum())
            sizes.append((plain, float(probe.cached(folded).state["0.weight"].square().sum())))
        CHANGES["c"](model)
    assert sizes[1][0] == pytest.approx(9 * sizes[0][0])
    assert sizes[1][1] == pytest.approx(sizes[0][1], rel=1e-9)
