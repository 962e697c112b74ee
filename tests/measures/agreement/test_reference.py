from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_gengap.measures.agreement.forest import out_of_bag_scores
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.probes import measured


def test_the_accuracies_are_those_of_the_measures_of_difficulty() -> None:
    model, (images, targets) = networks.made(networks.cnn), networks.pictures(60)
    more = {"initial_state": copy_state(model), "seed": 2}
    values = measured("reference", model, images, targets, **more).values
    patches = measured("input_difficulty", model, images, targets, **more).values["input_difficulty/patch_accuracy"]
    features = measured("difficulty", model, images, targets, **more).values["difficulty/ridge_accuracy"]
    forest = out_of_bag_scores(images.flatten(1), targets, 2).argmax(1)
    assert values == pytest.approx(
        {
            "reference/patch_accuracy": patches,
            "reference/forest_accuracy": float((forest == targets).double().mean()),
            "reference/features_accuracy": features,
        }
    )


def test_what_is_missing_has_a_reason() -> None:
    found = measured("reference", nn.Linear(3, 2), torch.randn(20, 3), torch.arange(20) % 2)
    assert set(found.values) == {"reference/forest_accuracy"}
    assert found.absent == {
        "reference/patch_accuracy": "the inputs are not images of 6 x 6 or more",
        "reference/features_accuracy": "there are no initial weights",
    }
    few = measured("reference", nn.Linear(3, 2), torch.randn(6, 3), torch.arange(6) % 2)
    assert few.absent == {"reference/*": "6 samples of 2 classes are too few; samples=10 are enough"}
