from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from lightning_gengap.measures.difficulty.difficulty import KEYS, initial_features
from lightning_gengap.measures.difficulty.leave_one_out_scores import RIDGES
from lightning_gengap.network.probe import copy_state
from tests import networks, oracles
from tests.probes import measured, probing, taken


def test_features_are_pooled_hidden_layers_of_the_initial_network() -> None:
    model, (images, targets) = networks.made(networks.cnn).eval(), networks.pictures()
    initial = copy_state(model)
    with torch.no_grad():
        h1 = model[:2](images)
        h2, h3 = model[2:5](h1), model[2:9](h1)
        blocks = [h1.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean(dim=(3, 5)), h2, h3]
        expected = torch.cat([block.flatten(1) for block in blocks], dim=1)
        for parameter in model.parameters():
            parameter.add_(1)
    with probing(model, images, targets, chunk=16, initial_state=initial) as probe:
        features = initial_features(probe)
    assert features.dtype == torch.float64
    torch.testing.assert_close(features.float(), expected)


def test_features_of_sequences_are_means_over_tokens() -> None:
    model, (images, targets) = networks.made(networks.VisionTransformer), networks.pictures(8)
    with probing(model, images, targets, initial_state=copy_state(model)) as probe:
        with probe.tapped() as caught:
            probe.logits_on(probe.batches[0].content, 8)
        features = initial_features(probe)
    expected = torch.cat([caught["h1"].mean(dim=1), caught["h2"].mean(dim=1), caught["h3"]], dim=1)
    torch.testing.assert_close(features.float(), expected)


def test_features_of_fused_transformer_layers_are_not_lost() -> None:
    layer = nn.TransformerEncoderLayer(24, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Flatten(1, 2), nn.Linear(8, 24), layer, nn.Flatten(), nn.Linear(576, networks.CLASSES))
    images, targets = networks.pictures(8)
    with probing(model, images, targets, initial_state=copy_state(model)) as probe:
        taps = {tap.layer: str(tap) for tap in probe.layout.taps}
        features = initial_features(probe)
    assert taps == {"h1": "2.norm1:in", "h2": "2.norm2:in", "h3": "3"}
    assert features.shape[1] == 24 + 24 + 24 * 24


def test_running_statistics_are_the_initial_ones() -> None:
    model, (images, targets) = networks.made(networks.cnn_with_batch_norm), networks.pictures()
    initial = copy_state(model)
    with probing(model, images, targets, initial_state=initial) as probe:
        before = initial_features(probe)
    model.train()
    model(3 * images)
    with probing(model, images, targets, initial_state=initial) as probe:
        assert torch.equal(initial_features(probe), before)
    with probing(model, images, targets, initial_state=copy_state(model)) as probe:
        assert not torch.equal(initial_features(probe), before)


def test_the_values_are_those_of_the_three_classifiers() -> None:
    model, (images, targets) = networks.made(networks.mlp), networks.pictures(80)
    with probing(model, images, targets, chunk=16, initial_state=copy_state(model)) as probe:
        values = taken("difficulty", probe).values
        features = initial_features(probe).numpy()
    flat, labels = images.flatten(1).double().numpy(), targets.numpy()
    ridge = oracles.accuracy_and_growth(partial(oracles.leave_one_out_ridge, ridges=RIDGES), features, labels)
    ten = oracles.accuracy_and_growth(partial(oracles.leave_one_out_neighbours, neighbours=10), flat, labels)
    assert values == pytest.approx(
        {
            "difficulty/ridge_accuracy": ridge[0],
            "difficulty/ridge_growth": ridge[1],
            "difficulty/neighbour_1_accuracy": oracles.leave_one_out_neighbours(flat, labels, 1),
            "difficulty/neighbour_10_accuracy": ten[0],
            "difficulty/neighbour_10_growth": ten[1],
            "difficulty/class_mean_accuracy": oracles.leave_one_out_class_means(flat, labels),
        }
    )


UNKNOWN = "the number of training samples is unknown"


def test_ridge_is_absent_without_initial_weights_or_hidden_layers() -> None:
    images, targets = networks.pictures()
    found = measured("difficulty", networks.made(networks.cnn), images, targets)
    assert found.absent == {
        "difficulty/ridge_*": "there are no initial weights",
        "difficulty/neighbour_10_extrapolated": UNKNOWN,
    }
    model = networks.made(networks.linear)
    found = measured("difficulty", model, images, targets, initial_state=copy_state(model), train_samples=40)
    assert found.absent == {"difficulty/ridge_*": "there are no hidden layers; layers=[...] can name some"}
    assert set(found.values) == {key for key in KEYS if "ridge" not in key}


def test_integer_inputs_have_ridge_only() -> None:
    model, targets = networks.made(networks.Tokens), torch.arange(40) % 4
    found = measured("difficulty", model, networks.token_ids(40), targets, initial_state=copy_state(model))
    assert set(found.values) == {"difficulty/ridge_accuracy", "difficulty/ridge_growth"}
    integers = "the inputs are not floats"
    assert found.absent == {
        "difficulty/ridge_extrapolated": UNKNOWN,
        "difficulty/neighbour_*": integers,
        "difficulty/class_mean_accuracy": integers,
    }


def test_inputs_of_one_number_an_example_have_values() -> None:
    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, numbers: torch.Tensor) -> torch.Tensor:
            return self.net(numbers[:, None])

    numbers = torch.linspace(-1, 1, 40)
    columns = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 2))
    line = Line()
    line.net.load_state_dict(columns.state_dict())
    for measure in ("difficulty", "margin"):
        targets = (numbers > 0).long()
        flat = measured(measure, line, numbers, targets, initial_state=copy_state(line))
        rows = measured(measure, columns, numbers[:, None], targets, initial_state=copy_state(columns))
        assert flat.values == pytest.approx(rows.values)
        assert flat.values
