"""Every cell that is declared: what does not change a value does not, and what is said to change it does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures import MEASURED, MEASURES, derived
from lightning_gengap.measures.key import CELLS, NEARLY, NO, YES
from lightning_gengap.measures.sharpness import weight_noise
from lightning_gengap.network.folding import folded
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.oracles import measures as oracles
from tests.other_data import is_of_other_data
from tests.probes import measured, probing

EXPENSIVE, FEW, COUNT = 30.0, 20, 48  # the expensive ones on few samples


def keys_of(name: str) -> list[str]:
    return [key for key, declared in MEASURED.items() if declared.measure == name]


def scale_logits(model: nn.Sequential) -> None:
    oracles.scale_last_layer(model[-1], 3.0)


@torch.no_grad()
def rescale_relu_layers(model: nn.Sequential) -> None:
    layers = [module for module in model if isinstance(module, nn.Linear)]
    reached = 1.0
    for layer, factor in zip(layers, (3.0, 0.5, 2.0, 1 / 3), strict=True):
        reached *= factor
        layer.weight.mul_(factor)
        layer.bias.mul_(reached)
    assert reached == pytest.approx(1.0)


def rescale_before_batch_norm(model: nn.Sequential) -> None:
    pairs = [(layer, norm) for layer, norm in pairwise(model) if isinstance(norm, nn.BatchNorm2d)]
    for (layer, norm), factor in zip(pairs, (3.0, 0.25, 5.0), strict=True):
        oracles.rescale_batch_norm(layer, norm, factor)


CHANGES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Sequential], None]]] = {
    "logits": (networks.mlp, scale_logits),
    "relu": (networks.mlp, rescale_relu_layers),
    "batch_norm": (networks.cnn_with_batch_norm, rescale_before_batch_norm),
}


def task(factory: Callable[[], nn.Module], name: str) -> tuple[nn.Sequential, Tensor]:
    """A network that predicts all classes: constant guesses leave some measures undefined."""
    count = FEW if MEASURES[name].forwards >= EXPENSIVE else COUNT
    model, images = networks.made(factory).double().eval(), networks.images(count).double()
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        model[-1].bias -= model(images).mean(dim=0)
    return model, images


def values_of(name: str, model: nn.Sequential, images: Tensor, targets: Tensor) -> Mapping[str, float]:
    start = networks.made(networks.mlp if isinstance(model[0], nn.Flatten) else networks.cnn_with_batch_norm)
    initial = {key: value + 0.1 for key, value in copy_state(start.double()).items() if value.is_floating_point()}
    return measured(name, model, images, targets, initial_state=initial, train_samples=len(targets), chunk=20).values


def before_and_after(name: str, change: str) -> list[tuple[Mapping[str, float], Mapping[str, float]]]:
    """The values with a fifth of the labels wrong and, where some keys need it, with none."""
    factory, apply = CHANGES[change]
    model, images = task(factory, name)
    changed = copy.deepcopy(model)
    apply(changed)
    logits = model(images).detach()
    torch.testing.assert_close(changed(images), (3 if change == "logits" else 1) * logits)
    pairs: list[tuple[Mapping[str, float], Mapping[str, float]]] = []
    for targets in (networks.mostly_right_targets(model, images), logits.argmax(1)):
        pairs.append((values_of(name, model, images, targets), values_of(name, changed, images, targets)))
        if pairs[0][0].keys() == pairs[0][1].keys() == set(keys_of(name)):
            break
    return pairs


def test_every_key_of_a_measure_declares_its_invariances() -> None:
    declared = [MEASURED[key] for name in MEASURES for key in keys_of(name)]
    declared += [figure for row in MEASURES.values() for figure in row.keys.values()]
    for key in declared:
        assert key.invariances is not None, key
        assert set(key.invariances) <= set(CELLS), key


# By what a factor a value with this unit changes where the logits are three times as large.
SCALES = {"logits": 3.0, "inverse squared logits": 1 / 9}
IN_LOGITS = [key for key, entry in MEASURED.items() if "logits" in entry.unit]


def test_units_in_logits_are_known_and_their_values_not_invariant() -> None:
    assert {MEASURED[key].unit for key in IN_LOGITS} == set(SCALES)
    for key in IN_LOGITS:
        declared = MEASURED[key].invariances
        assert declared is not None
        assert declared.logits == NO, key


@pytest.mark.parametrize("key", IN_LOGITS)
def test_a_unit_in_logits_says_how_the_value_scales_with_them(key: str) -> None:
    both = [pair for pair in before_and_after(MEASURED[key].measure, "logits") if key in pair[0]]
    assert both
    for before, after in both:
        assert before[key] != 0
        assert after[key] == pytest.approx(SCALES[MEASURED[key].unit] * before[key], rel=1e-9)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", MEASURES)
def test_values_change_exactly_where_it_is_declared(name: str, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_noise, "FLOOR", 0.0)  # "but for a small constant": without it
    pairs = before_and_after(name, change)
    for key in keys_of(name):
        both = [(before[key], after[key]) for before, after in pairs if key in before and key in after]
        cell = getattr(MEASURED[key].invariances, change)
        assert both or key in derived.KEYS or is_of_other_data(key), f"{key} is given for neither"
        for before, after in both:
            if cell in (YES, NEARLY):
                assert after == pytest.approx(before, rel=1e-6 if cell == YES else 0.02, abs=1e-9), key
        if cell == NO and both:
            assert any(after != pytest.approx(before, rel=1e-5, abs=1e-9) for before, after in both), key


def test_without_folding_a_rescaling_before_batch_norm_would_be_seen() -> None:
    model, images = task(networks.cnn_with_batch_norm, "norm")
    sizes = []
    for _ in range(2):
        with probing(model, images, model(images).argmax(1)) as probe:
            plain = float(model[0].weight.detach().square().sum())
            sizes.append((plain, float(probe.cached(folded).state["0.weight"].square().sum())))
        rescale_before_batch_norm(model)
    assert sizes[1][0] == pytest.approx(9 * sizes[0][0])
    assert sizes[1][1] == pytest.approx(sizes[0][1], rel=1e-9)
