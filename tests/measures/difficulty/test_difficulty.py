from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.measures.difficulty.difficulty import (
    RIDGES,
    difficulty,
    initial_features,
    learning_curve,
    leave_one_out_class_means,
    leave_one_out_neighbours,
    leave_one_out_ridge,
)
from lightning_gengap.network.probe import copy_state
from tests import networks, oracles
from tests.probes import probing

CLASSES = 3


def clusters(count: int = 45, features: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping classes of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, CLASSES, (count,), generator=generator)
    centres = torch.randn(CLASSES, features, generator=generator)
    return (centres[targets] + 1.5 * torch.randn(count, features, generator=generator)).double(), targets


def pictures(count: int = 40) -> tuple[Tensor, Tensor]:
    """Images whose class shows in their mean colour."""
    targets = torch.arange(count) % networks.CLASSES
    colours = torch.randn(networks.CLASSES, networks.CHANNELS, 1, 1, generator=torch.Generator().manual_seed(5))
    return networks.images(count) + 0.3 * colours[targets], targets


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("features", [6, 30])
def test_ridge_equals_refits_without_each_sample(seed: int, features: int) -> None:
    rows, targets = clusters(features=features, seed=seed)
    rows[:, 2] = 0.1  # a feature without variation
    expected = oracles.leave_one_out_ridge(rows.numpy(), targets.numpy(), RIDGES)
    assert expected > 0.3
    assert leave_one_out_ridge(rows, targets) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("neighbours", [1, 2, 3, 10, 100])
def test_neighbours_equal_a_loop_over_samples(seed: int, neighbours: int) -> None:
    rows, targets = clusters(seed=seed)
    expected = oracles.leave_one_out_neighbours(rows.numpy(), targets.numpy(), neighbours)
    assert leave_one_out_neighbours(rows, targets, neighbours) == pytest.approx(expected, abs=1e-12)


def test_a_tie_of_neighbours_goes_to_the_nearer() -> None:
    line, targets = torch.tensor([[0.0], [1.0], [-2.0], [50.0]]).double(), torch.tensor([1, 1, 0, 0])
    assert leave_one_out_neighbours(line[:3], targets[:3], 2) == pytest.approx(2 / 3)
    assert oracles.leave_one_out_neighbours(line[:3].numpy(), targets[:3].numpy(), 2) == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(4))
def test_class_means_equal_a_loop_over_samples(seed: int) -> None:
    rows, targets = clusters(seed=seed)
    expected = oracles.leave_one_out_class_means(rows.numpy(), targets.numpy())
    assert leave_one_out_class_means(rows, targets) == pytest.approx(expected, abs=1e-12)


def test_a_class_of_one_sample_and_an_absent_class_have_no_mean() -> None:
    rows, targets = clusters()
    targets = torch.where(targets == 1, 4, targets)
    targets[0] = 5
    expected = oracles.leave_one_out_class_means(rows.numpy(), targets.numpy())
    assert leave_one_out_class_means(rows, targets) == pytest.approx(expected, abs=1e-12)


def test_features_are_pooled_hidden_layers_of_the_initial_network() -> None:
    model, (images, targets) = networks.made(networks.cnn).eval(), pictures()
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
    model, (images, targets) = networks.made(networks.VisionTransformer), pictures(8)
    with probing(model, images, targets, initial_state=copy_state(model)) as probe:
        with probe.tapped() as caught:
            probe.logits_on(probe.batches[0].content, 8)
        features = initial_features(probe)
    expected = torch.cat([caught["h1"].mean(dim=1), caught["h2"].mean(dim=1), caught["h3"]], dim=1)
    torch.testing.assert_close(features.float(), expected)


def test_features_of_fused_transformer_layers_are_not_lost() -> None:
    layer = nn.TransformerEncoderLayer(24, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Flatten(1, 2), nn.Linear(8, 24), layer, nn.Flatten(), nn.Linear(576, networks.CLASSES))
    images, targets = pictures(8)
    with probing(model, images, targets, initial_state=copy_state(model)) as probe:
        taps = {tap.layer: str(tap) for tap in probe.layout.taps}
        features = initial_features(probe)
    assert taps == {"h1": "2.norm1:in", "h2": "2.norm2:in", "h3": "3"}
    assert features.shape[1] == 24 + 24 + 24 * 24


def test_running_statistics_are_the_initial_ones() -> None:
    model, (images, targets) = networks.made(networks.cnn_with_batch_norm), pictures()
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
    model, (images, targets) = networks.made(networks.mlp), pictures(80)
    with probing(model, images, targets, chunk=16, initial_state=copy_state(model)) as probe:
        values = difficulty(probe)
        features = initial_features(probe).numpy()
    flat, order = images.flatten(1).double().numpy(), np.argsort(targets.numpy(), kind="stable")
    ridge = oracles.leave_one_out_ridge(features, targets.numpy(), RIDGES)
    ridges = [
        oracles.leave_one_out_ridge(features[half], targets.numpy()[half], RIDGES) for half in (order[::2], order[1::2])
    ]
    ten = oracles.leave_one_out_neighbours(flat, targets.numpy(), 10)
    halves = [
        oracles.leave_one_out_neighbours(flat[half], targets.numpy()[half], 10) for half in (order[::2], order[1::2])
    ]
    assert values == pytest.approx(
        {
            "difficulty/ridge_accuracy": ridge,
            "difficulty/ridge_growth": ridge - np.mean(ridges),
            "difficulty/neighbour_1_accuracy": oracles.leave_one_out_neighbours(flat, targets.numpy(), 1),
            "difficulty/neighbour_10_accuracy": ten,
            "difficulty/neighbour_10_growth": ten - np.mean(halves),
            "difficulty/class_mean_accuracy": oracles.leave_one_out_class_means(flat, targets.numpy()),
        }
    )


def test_easy_data_score_higher_than_random_labels() -> None:
    model, (images, targets) = networks.made(networks.mlp), pictures(200)
    shuffled = targets[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    scores = []
    for labels in (targets, shuffled):
        with probing(model, images, labels, initial_state=copy_state(model)) as probe:
            scores.append(difficulty(probe))
    assert all(scores[0][key] > scores[1][key] + 0.1 for key in scores[0] if key.endswith("_accuracy"))


@pytest.mark.parametrize(("train_samples", "doublings"), [(320, 2), (80, 0), (20, 0)])
def test_a_learning_curve_is_a_line_over_the_log_of_the_samples(train_samples: int, doublings: int) -> None:
    def scored(rows: Tensor, labels: Tensor) -> float:
        assert labels.bincount().tolist() == [len(rows) // 4] * 4  # every class is halved
        return 0.3 if len(rows) == 80 else 0.25

    rows, targets = torch.randn(80, 5), torch.arange(80) % 4
    with probing(networks.made(networks.mlp), networks.images(80), targets, train_samples=train_samples) as probe:
        curve = learning_curve(scored, rows, probe)
    assert curve == pytest.approx({"accuracy": 0.3, "growth": 0.05, "extrapolated": 0.3 + 0.05 * doublings})


def test_what_is_extrapolated_stays_a_fraction_and_needs_the_train_size() -> None:
    rows, targets = torch.randn(80, 5), torch.arange(80) % 4
    model, images = networks.made(networks.mlp), networks.images(80)
    for rise, end in ((0.5, 1.0), (-0.5, 0.0)):
        with probing(model, images, targets, train_samples=80 * 2**4) as probe:
            curve = learning_curve(lambda x, y, by=rise: 0.5 + by * (len(x) == 80) * 0.9, rows, probe)  # type: ignore[misc]
        assert curve["extrapolated"] == end
    with probing(model, images, targets) as probe:
        assert set(learning_curve(lambda x, y: 0.5, rows, probe)) == {"accuracy", "growth"}


def test_absent_with_fewer_than_five_samples_per_class() -> None:
    model, (images, targets) = networks.made(networks.cnn), pictures(19)
    with probing(model, images, targets, initial_state=copy_state(model)) as probe:
        assert difficulty(probe) == {}
    with probing(model, images[:15], targets[:15] % 3, initial_state=copy_state(model)) as probe:
        assert len(difficulty(probe)) == 6


def test_ridge_is_absent_without_initial_weights_or_hidden_layers() -> None:
    images, targets = pictures()
    with probing(networks.made(networks.cnn), images, targets) as probe:
        assert not any(key.startswith("difficulty/ridge") for key in difficulty(probe))
    model = networks.made(networks.linear)
    with probing(model, images, targets, initial_state=copy_state(model)) as probe:
        assert set(difficulty(probe)) == {
            "difficulty/neighbour_1_accuracy",
            "difficulty/neighbour_10_accuracy",
            "difficulty/neighbour_10_growth",
            "difficulty/class_mean_accuracy",
        }


def test_integer_inputs_have_ridge_only() -> None:
    model, targets = networks.made(networks.Tokens), torch.arange(40) % 4
    with probing(model, networks.token_ids(40), targets, initial_state=copy_state(model)) as probe:
        assert set(difficulty(probe)) == {"difficulty/ridge_accuracy", "difficulty/ridge_growth"}


def test_the_model_keeps_its_weights() -> None:
    model, (images, targets) = networks.made(networks.cnn_with_batch_norm), pictures()
    initial = {name: value + 1 for name, value in copy_state(model).items() if value.is_floating_point()}
    before, objects = copy_state(model), [id(parameter) for parameter in model.parameters()]
    with probing(model, images, targets, initial_state=initial) as probe:
        difficulty(probe)
    assert all(torch.equal(value, before[name]) for name, value in copy_state(model).items())
    assert [id(parameter) for parameter in model.parameters()] == objects


def test_neighbours_of_duplicates_find_each_other() -> None:
    rows, targets = clusters(20)
    assert leave_one_out_neighbours(torch.cat([rows, rows]), torch.cat([targets, targets]), 1) == 1
    assert np.isclose(leave_one_out_neighbours(torch.cat([rows, rows]), torch.cat([targets, (targets + 1) % 3]), 1), 0)


def test_ridge_does_not_learn_the_label_from_the_balance_of_the_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 2000, generator=generator, dtype=torch.float64)
    balanced = torch.arange(200)[torch.randperm(200, generator=generator)] % 4
    assert leave_one_out_ridge(noise, balanced) < 0.4  # chance is 0.25; the labels have nothing to do with the noise
