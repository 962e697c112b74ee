from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from lightning_gengap.measures.difficulty.input_difficulty import (
    FILTERS,
    FLATTENING,
    PATCHES,
    convolution_features,
    drawn_patches,
    patch_features,
    pooling_onto,
    standardised,
)
from lightning_gengap.measures.difficulty.leave_one_out_scores import RIDGES
from tests import networks, oracles
from tests.probes import measured

KEYS = [f"input_difficulty/{name}_accuracy" for name in ("ridge", "convolution", "patch")]


def values_of(inputs: Tensor, targets: Tensor, **more: object) -> dict[str, float]:
    model = networks.made(networks.mlp).to(inputs.dtype)
    return measured("input_difficulty", model, inputs, targets, **more).values


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_values_are_leave_one_out_refits_on_three_kinds_of_features() -> None:
    images, targets = networks.pictures(60)
    ready = standardised(images)
    features = {
        KEYS[0]: images.flatten(1).double(),
        KEYS[1]: convolution_features(ready, seeded(3)),
        KEYS[2]: patch_features(ready, seeded(3)),
    }
    refitted, expected = partial(oracles.leave_one_out_ridge, ridges=RIDGES), {}
    for key, rows in features.items():
        expected[key], growth = oracles.accuracy_and_growth(refitted, rows.numpy(), targets.numpy())
        if key != KEYS[0]:
            expected[key.replace("accuracy", "growth")] = growth
    assert values_of(images, targets, seed=3, chunk=17) == pytest.approx(expected)
    assert min(expected[key] for key in KEYS) > 0.3


def test_what_is_extrapolated_needs_the_train_size() -> None:
    images, targets = networks.pictures(60)
    values = values_of(images, targets, train_samples=240)
    for key in KEYS[1:]:
        growth = values[key.replace("accuracy", "growth")]
        expected = min(max(values[key] + 2 * growth, 0), 1)  # 240 is 60 doubled twice
        assert values[key.replace("accuracy", "extrapolated")] == pytest.approx(expected)
    assert "input_difficulty/patch_extrapolated" not in values_of(images, targets)


def test_channels_are_standardised_and_constant_ones_stay() -> None:
    images = networks.images(9) * 3 + 7
    images[:, 1] = 4.0
    ready = standardised(images)
    assert ready.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert ready.std(dim=(0, 2, 3), correction=0).tolist() == pytest.approx([1, 0, 1], abs=1e-6)


def grid_means(response: np.ndarray) -> np.ndarray:
    """Means over a 4 x 4 grid whose cells begin at floor(i n / 4) and end at ceil((i + 1) n / 4)."""
    edges = [[(i * length // 4, -(-(i + 1) * length // 4)) for i in range(min(4, length))] for length in response.shape]
    if response.shape[0] < 4:
        edges = [[(i, i + 1) for i in range(length)] for length in response.shape]
    return np.array([[response[a:b, c:d].mean() for c, d in edges[1]] for a, b in edges[0]])


def test_random_convolutions_by_hand() -> None:
    images = networks.images(3).double()
    features = convolution_features(images, seeded(1)).numpy()
    filters = torch.randn(FILTERS, 3, 5, 5, generator=seeded(1), dtype=torch.float64).numpy()
    for sign, start in ((1, 0), (-1, FILTERS)):
        for chosen in (0, 17, FILTERS - 1):
            for i, image in enumerate(images.numpy()):
                response = np.array(
                    [[(image[:, y : y + 5, x : x + 5] * filters[chosen]).sum() for x in range(4)] for y in range(4)]
                )
                found = features[i].reshape(2 * FILTERS, 4, 4)[start + chosen]
                assert found == pytest.approx(grid_means(np.maximum(sign * response, 0)), rel=1e-9)


def test_patches_are_parts_of_the_images_at_every_place() -> None:
    images = torch.arange(3 * 2 * 7 * 8).reshape(3, 2, 7, 8).double()
    patches = drawn_patches(images, seeded())
    assert patches.shape == (PATCHES, 2 * 36)
    corners = {int(patch[0]) for patch in patches}
    places = {int(images[i, 0, y, x]) for i in range(3) for y in range(2) for x in range(3)}
    assert corners == places
    for patch in patches[:50]:
        i, y, x = ((images[:, 0] == patch[0]).nonzero()[0]).tolist()
        assert torch.equal(patch, images[i, :, y : y + 6, x : x + 6].flatten())


def test_responses_to_patches_are_products_of_whitened_patches() -> None:
    images = networks.images(20).double()
    images[:, :, :, 1:] += 2 * images[:, :, :, :-1]  # neighbouring pixels go together
    features = patch_features(images, seeded(2)).numpy()
    patches = drawn_patches(images, seeded(2)).numpy()
    centred = patches - patches.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    whiten = axes @ np.diag((variances + FLATTENING * variances.mean()) ** -0.5) @ axes.T
    filters = (centred @ whiten)[:FILTERS]
    filters /= np.linalg.norm(filters, axis=1, keepdims=True)
    for chosen in (0, 50):
        for i, image in enumerate(images.numpy()[:3]):
            response = np.array(
                [
                    [
                        filters[chosen] @ whiten @ (image[:, y : y + 6, x : x + 6].ravel() - patches.mean(axis=0))
                        for x in range(3)
                    ]
                    for y in range(3)
                ]
            )
            found = features[i].reshape(2 * FILTERS, 3, 3)
            assert found[chosen] == pytest.approx(grid_means(np.maximum(response, 0)), rel=1e-8, abs=1e-10)
            assert found[FILTERS + chosen] == pytest.approx(grid_means(np.maximum(-response, 0)), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("sides", [(27, 27), (3, 10), (8, 5)])
def test_maps_are_pooled_as_adaptive_pooling_does(sides: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *sides, generator=seeded(0), dtype=torch.float64)
    expected = adaptive_avg_pool2d(maps, (min(4, sides[0]), min(4, sides[1]))).flatten(2)
    assert (maps.flatten(2) @ pooling_onto(4, maps)).numpy() == pytest.approx(expected.numpy(), abs=1e-12)


def test_the_scale_of_the_inputs_and_the_network_do_not_matter() -> None:
    images, targets = networks.pictures()
    images = images.double()
    before = values_of(images, targets)
    assert values_of(5 * images + 3, targets) == before
    assert measured("input_difficulty", networks.made(networks.cnn).double(), images, targets).values == before


def test_what_is_undefined_is_absent_with_a_reason() -> None:
    ids, targets = networks.token_ids(40), torch.arange(40) % 4
    found = measured("input_difficulty", networks.made(networks.Tokens), ids, targets)
    assert found.values == {}
    assert found.absent == {"input_difficulty/*": "the inputs are not floats"}
    model, images = networks.made(networks.mlp), networks.images(40)
    found = measured("input_difficulty", model, images.flatten(1), targets)
    assert set(found.values) == {KEYS[0]}
    assert set(found.absent) == {"input_difficulty/convolution_*", "input_difficulty/patch_*"}
    model = nn.Sequential(nn.Flatten(), nn.Linear(75, 8), nn.ReLU(), nn.Linear(8, 4))
    found = measured("input_difficulty", model, images[:, :, :5, :5], targets, train_samples=80)
    assert set(found.values) == {*KEYS[:2], *(f"input_difficulty/convolution_{x}" for x in ("growth", "extrapolated"))}
    assert found.absent == {"input_difficulty/patch_*": "the inputs are not images of 6 x 6 or more"}


def test_only_wanted_scores_are_computed_and_equal_those_of_a_full_measurement() -> None:
    images, targets = networks.images(60), torch.arange(60) % 3
    everything = values_of(images, targets)
    assert len(everything) == 5
    for key in everything:
        kind = key.rpartition("_")[0]
        wanted = values_of(images, targets, wanted=frozenset({key}))
        assert wanted == {k: v for k, v in everything.items() if k.startswith(kind)}
