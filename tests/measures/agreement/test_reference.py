from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from lightning_gengap import GapMonitor, measure
from lightning_gengap.measurer import Measurer, TrainingMemory
from lightning_gengap.measures.agreement.forest import out_of_bag_shares
from lightning_gengap.network.probe import copy_state
from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.reader import SampleReader
from tests import networks
from tests.lightning_models import TinyModel, blobs, quiet_trainer
from tests.probes import measured


def test_the_accuracies_are_those_of_the_references() -> None:
    model, (images, targets) = networks.made(networks.cnn), networks.pictures(60)
    more = {"initial_state": copy_state(model), "seed": 2}
    values = measured("reference", model, images, targets, **more).values
    features = measured("difficulty", model, images, targets, **more).values["difficulty/ridge_accuracy"]
    forest = float((out_of_bag_shares(images.flatten(1), targets, 2).argmax(1) == targets).double().mean())
    assert values["reference/forest_accuracy"] == forest
    assert values["reference/features_accuracy"] == features
    assert values["reference/best_accuracy"] == max(values["reference/patch_accuracy"], forest, features)
    assert {values[f"reference/{name}_samples"] for name in ("patch", "forest", "features")} == {60.0}


def test_what_is_missing_has_a_reason() -> None:
    rows, targets = torch.randn(20, 3), torch.arange(20) % 2
    found = measured("reference", nn.Linear(3, 2), rows, targets, named=frozenset({"reference"}))
    assert set(found.values) == {
        *("reference/forest_accuracy", "reference/forest_samples", "reference/best_accuracy"),
        *("reference/landmarks_accuracy", "reference/landmarks_samples"),
    }
    assert found.absent == {
        "reference/patch_*": "the inputs are not images of 6 x 6 or more",
        "reference/tokens_*": "no integers of shape (examples, length) go into an embedding",
        "reference/features_*": "there are no initial weights",
    }
    unasked = measured("reference", nn.Linear(3, 2), rows, targets)
    assert unasked.values == found.values
    assert unasked.absent == {"reference/features_*": "there are no initial weights"}, "not what is for other data"
    few = measured("reference", nn.Linear(3, 2), torch.randn(6, 3), torch.arange(6) % 2)
    assert few.absent == {"reference/*": "6 samples of 2 classes are too few; samples=10 are enough"}


def test_the_best_is_named_to_who_asks_by_name() -> None:
    targets = torch.arange(60) % 2
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) + 5 * targets[:, None]
    asked = measured("reference", nn.Linear(3, 2), rows, targets, named=frozenset({"reference"}))
    assert asked.remarks == ["reference: a random forest has 1.00 on these samples, fitted on 60"]
    assert measured("reference", nn.Linear(3, 2), rows, targets).remarks == []


def mirrored_changes(count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose class is the side on which they are bright."""
    targets = torch.arange(count) % 2
    images = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[targets == 0, :, :, :4] += 2
    images[targets == 1, :, :, 4:] += 2
    return images, targets


def test_mirroring_is_tried_on_the_data() -> None:
    model = networks.made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    sides, targets = mirrored_changes()
    values = measured("reference", model, sides, targets).values
    assert values["reference/patch_accuracy"] > 0.9
    assert values["reference/patch_flipped_accuracy"] < 0.1
    symmetric = (sides + sides.flip(3)) / 2 + 2 * targets[:, None, None, None]
    values = measured("reference", model, symmetric, targets).values
    assert values["reference/patch_flipped_accuracy"] == values["reference/patch_accuracy"] > 0.9


def test_mirrored_digits_are_other_digits() -> None:
    from sklearn.datasets import load_digits

    digits, labels = load_digits(return_X_y=True)
    images, targets = torch.tensor(digits[:500]).float().reshape(-1, 1, 8, 8), torch.tensor(labels[:500])
    model = networks.made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    values = measured("reference", model, images, targets).values
    assert values["reference/patch_accuracy"] > 0.9
    assert values["reference/patch_flipped_accuracy"] < 0.6


@contextmanager
def said(text: str) -> Iterator[None]:
    """Whether it is among the warnings of the block."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert sum(text in str(warning.message) for warning in caught) == 1


def test_training_measure_and_the_zoo_agree() -> None:
    data, model = blobs(400), TinyModel()
    initial = copy.deepcopy(model.state_dict())
    monitor = GapMonitor(None, samples=64, budget=None, measures=["reference"], seed=1)
    with said("has 1.00 on these samples, fitted on 400"):
        quiet_trainer(monitor).fit(model, DataLoader(data, batch_size=50, shuffle=True))
    live = {key: value for key, value in monitor.values.items() if key.startswith("reference/")}
    assert live["reference/forest_samples"] == 400
    with said("has 1.00 on these samples, fitted on 400"):
        values = measure(model, data, ["reference"], initial, samples=64, seed=1)
    assert {key: values[key] for key in live} == pytest.approx(live)
    whole = DataLoader(data, sampler=BatchSampler(RandomSampler(data), 50, drop_last=True), batch_size=None)
    samples = draw_samples(whole, SampleReader(64, 1))
    assert samples is not None
    measurer = Measurer.of(model, samples, TrainingMemory(initial), seed=1)
    remeasured = measurer.measure(model, ["reference"]).values
    assert {key: remeasured[key] for key in live} == pytest.approx(live)
