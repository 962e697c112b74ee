from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap.measures.difficulty.difficulty import (
    RIDGES,
    difficulty,
    left_out_scores,
    pooled_features,
    standardised_gram,
)
from lightning_gengap.measures.difficulty.representation import leave_one_out_error, representation
from lightning_gengap.network.probe import copy_state
from tests import networks, oracles
from tests.oracles import measures as measure_oracles
from tests.probes import probing

LAYERS = ("h1", "h2", "h3")


def pictures(count: int = 60) -> tuple[Tensor, Tensor]:
    """Images whose class shows in their mean colour."""
    targets = torch.arange(count) % networks.CLASSES
    colours = torch.randn(networks.CLASSES, networks.CHANNELS, 1, 1, generator=torch.Generator().manual_seed(5))
    return networks.images(count) + 0.3 * colours[targets], targets


def moved(model: nn.Module) -> nn.Module:
    """The model with other weights."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def test_the_values_are_those_of_refits_and_loops_over_samples() -> None:
    model, (images, targets) = networks.made(networks.cnn), pictures()
    initial = copy_state(model)
    with probing(moved(model), images, targets, chunk=17, initial_state=initial) as probe:
        values = representation(probe)
        now, then = pooled_features(probe), pooled_features(probe, initial)
        at_start = difficulty(probe)["difficulty/ridge_accuracy"]
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


@pytest.mark.parametrize("features", [3, 50])
def test_the_error_is_that_of_refits_without_each_sample(features: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, targets = torch.randn(30, features, generator=generator).double(), torch.arange(30) % 3
    rows[:, 0] += targets
    gram = standardised_gram(rows)
    signs = torch.where(targets[:, None] == torch.arange(3), 1.0, -1.0).double()
    errors = []
    for ridge in RIDGES:
        total = 0.0
        for i in range(30):
            rest = torch.tensor([j for j in range(30) if j != i])
            bordered = torch.ones(30, 30).double()
            bordered[:-1, :-1] = gram[rest][:, rest] + ridge * torch.eye(29).double()
            bordered[-1, -1] = 0
            dual = torch.linalg.solve(bordered, torch.cat([signs[rest], torch.zeros(1, 3).double()]))
            total += float((gram[i, rest] @ dual[:-1] + dual[-1] - signs[i]).square().sum())
        errors.append(total / 90 / float(signs.var(dim=0, correction=0).mean()))
    found = leave_one_out_error(left_out_scores(gram, targets), targets)
    assert found == pytest.approx(min(errors), rel=1e-9)


def test_features_without_information_have_an_error_of_at_least_about_one() -> None:
    noise = torch.randn(200, 100, generator=torch.Generator().manual_seed(0)).double()
    error = leave_one_out_error(left_out_scores(standardised_gram(noise), torch.arange(200) % 4), torch.arange(200) % 4)
    assert 0.95 < error < 1.6


def test_fitting_random_labels_raises_the_scores() -> None:
    model, images = networks.made(lambda: networks.mlp((32, 32))), networks.images(40)
    targets = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(0))
    initial = copy_state(model)
    with probing(model, images, targets, initial_state=initial) as probe:
        before = representation(probe)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(model(images), targets).backward()
        optimizer.step()
    with probing(model, images, targets, initial_state=initial) as probe:
        after = representation(probe)
    assert before["representation/ridge_growth"] == 0
    assert after["representation/ridge_growth"] > 0.4
    assert after["representation/h3/neighbour_1_accuracy"] > before["representation/h3/neighbour_1_accuracy"] + 0.4
    assert after["representation/ridge_error"] < 0.6 * before["representation/ridge_error"]


def test_the_initial_accuracy_is_kept_for_these_samples_only() -> None:
    model, (images, targets) = networks.made(networks.cnn), pictures()
    initial, memory = copy_state(model), dict[str, Tensor]()
    with probing(moved(model), images, targets, initial_state=initial, memory=memory) as probe:
        first = representation(probe)
    wrong = {name: torch.zeros_like(value) for name, value in initial.items()}
    with probing(model, images, targets, initial_state=wrong, memory=memory) as probe:
        assert representation(probe) == first
    with probing(model, images[:40], targets[:40], initial_state=initial, memory=memory) as probe:
        again = representation(probe)
    with probing(model, images[:40], targets[:40], initial_state=initial) as probe:
        assert representation(probe) == again


def test_scalings_change_nothing() -> None:
    model, (images, targets) = networks.made(networks.cnn).double(), pictures()
    images, initial = images.double(), copy_state(model)
    found = []
    for scale in (lambda: None, lambda: measure_oracles.scale_last_layer(model[-1], 7.0), lambda: rescaled(model)):
        scale()
        with probing(model, images, targets, initial_state=initial) as probe:
            found.append(representation(probe))
    assert found[1] == pytest.approx(found[0])
    assert found[2] == pytest.approx(found[0])


def rescaled(model: nn.Module) -> None:
    measure_oracles.rescale_relu(model[0], model[2], 5.0)


def test_what_is_undefined_is_absent_with_a_note() -> None:
    images, targets = pictures()
    with probing(networks.made(networks.linear), images, targets) as probe:
        assert representation(probe) == {}
        assert probe.notes == ["representation/* is absent: there are no hidden layers"]
    with probing(networks.made(networks.cnn), images[:19], targets[:19]) as probe:
        assert representation(probe) == {}
        assert "too few" in probe.notes[0]
    with probing(networks.made(networks.cnn), images, torch.zeros_like(targets)) as probe:
        assert representation(probe) == {}
        assert probe.notes == ["representation/* is absent: there is one class only"]
    with probing(networks.made(networks.cnn), images, targets) as probe:
        values = representation(probe)
        assert "representation/ridge_growth" not in values
        assert len(values) == 9
        assert probe.notes == ["representation/ridge_growth is absent: there are no initial weights"]
