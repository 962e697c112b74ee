from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap.measures.difficulty.difficulty import pooled_features
from lightning_gengap.measures.difficulty.leave_one_out_scores import (
    RIDGES,
    leave_one_out_error,
    left_out_scores,
    standardised_gram,
)
from lightning_gengap.network.probe import copy_state
from tests import networks, oracles
from tests.probes import measured, probing, taken

LAYERS = ("h1", "h2", "h3")


def moved(model: nn.Module) -> nn.Module:
    """The model with other weights."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def test_the_values_are_those_of_refits_and_loops_over_samples() -> None:
    model, (images, targets) = networks.made(networks.cnn), networks.pictures(60)
    initial = copy_state(model)
    with probing(moved(model), images, targets, chunk=17, initial_state=initial) as probe:
        values = taken("representation", probe).values
        now, then = pooled_features(probe), pooled_features(probe, initial)
        at_start = taken("difficulty", probe).values["difficulty/ridge_accuracy"]
    everything = torch.cat(list(now.values()), dim=1)
    ridge = oracles.leave_one_out_ridge(everything.numpy(), targets.numpy(), RIDGES)
    error = leave_one_out_error(left_out_scores(standardised_gram(everything), targets), targets)
    expected = {
        "representation/ridge_accuracy": ridge,
        "representation/ridge_error": error,
        "representation/ridge_growth": ridge - at_start,
        "representation/h3/ridge_accuracy": oracles.leave_one_out_ridge(now["h3"].numpy(), targets.numpy(), RIDGES),
    }
    for layer in LAYERS:
        for k in (1, 10):
            accuracy = oracles.leave_one_out_neighbours(now[layer].numpy(), targets.numpy(), k)
            expected[f"representation/{layer}/neighbour_{k}_accuracy"] = accuracy
    assert values == pytest.approx(expected)
    assert not torch.equal(now["h1"], then["h1"])


def test_fitting_random_labels_raises_the_scores() -> None:
    model, images = networks.made(lambda: networks.mlp((32, 32))), networks.images(40)
    targets = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(0))
    initial = copy_state(model)
    before = measured("representation", model, images, targets, initial_state=initial).values
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(model(images), targets).backward()
        optimizer.step()
    after = measured("representation", model, images, targets, initial_state=initial).values
    assert before["representation/ridge_growth"] == 0
    assert after["representation/ridge_growth"] > 0.4
    assert after["representation/h3/neighbour_1_accuracy"] > before["representation/h3/neighbour_1_accuracy"] + 0.4
    assert after["representation/ridge_error"] < 0.6 * before["representation/ridge_error"]


def test_the_initial_accuracy_is_kept_for_these_samples_only() -> None:
    model, (images, targets) = networks.made(networks.cnn), networks.pictures(60)
    initial, memory = copy_state(model), dict[str, Tensor]()

    def values(count: int, **more: object) -> dict[str, float]:
        return measured("representation", model, images[:count], targets[:count], **more).values

    moved(model)
    first = values(60, initial_state=initial, memory=memory)
    wrong = {name: torch.zeros_like(value) for name, value in initial.items()}
    assert values(60, initial_state=wrong, memory=memory) == first
    assert values(40, initial_state=initial, memory=memory) == values(40, initial_state=initial)


UNDEFINED = {
    "there are no hidden layers": (networks.linear, 4),
    "there is one class only": (networks.cnn, 1),
}


@pytest.mark.parametrize("reason", UNDEFINED)
def test_what_is_undefined_is_absent_with_a_reason(reason: str) -> None:
    factory, classes = UNDEFINED[reason]
    images, targets = networks.pictures(60)
    found = measured("representation", networks.made(factory), images, targets % classes)
    assert (found.values, found.absent) == ({}, {"representation/*": reason})


def test_the_growth_is_absent_without_initial_weights() -> None:
    found = measured("representation", networks.made(networks.cnn), *networks.pictures(60))
    assert len(found.values) == 9
    assert found.absent == {"representation/ridge_growth": "there are no initial weights"}
