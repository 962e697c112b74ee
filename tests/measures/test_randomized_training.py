"""The yardstick of Zhang et al. 2017: a network fits true and random labels alike; the measures tell them apart."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from lightning_gengap.measures import compute
from lightning_gengap.network.probe import copy_state
from lightning_gengap.randomized_data import corrupted_labels, random_labels
from tests.probes import probing

TRAIN = 400
LARGER_FOR_LARGER_GAPS = (
    "path_norm/log_over_margin",
    "distance/frobenius",
    "pac_bayes/initial",
    "pac_bayes/magnitude_flatness",
)
SMALLER_FOR_LARGER_GAPS = ("bartlett/median", "k_variance/h1", "k_variance/h3")


def outcome(share: float, seed: int) -> dict[str, float]:
    """Train on digits until every sample is fitted, with that share of random labels; measure and test."""
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images).float() / 16, torch.tensor(labels))
    data = random_labels(digits, 10, seed) if share == 1 else corrupted_labels(digits, 10, share, seed)
    pairs = [data[i] for i in range(2 * TRAIN)]
    inputs, targets = torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    initial, optimizer = copy_state(model), torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(200):
        total = 0.0
        for rows in torch.randperm(TRAIN).split(50):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows) / TRAIN
        if total < 0.02:
            break
    right = (model(inputs).argmax(1) == targets).double()
    values = {"train": float(right[:TRAIN].mean()), "test": float(right[TRAIN:].mean())}
    with probing(model, inputs[:200], targets[:200], train_samples=TRAIN, initial_state=initial) as probe:
        return values | compute(probe, ["path_norm", "bartlett", "distance", "pac_bayes", "k_variance"]).values


@pytest.mark.parametrize("seed", range(2))
def test_measures_order_true_half_random_and_random_labels(seed: int) -> None:
    with torch.random.fork_rng():
        outcomes = [outcome(share, seed) for share in (0.0, 0.5, 1.0)]
    assert all(values["train"] == 1 for values in outcomes)
    gaps = [values["train"] - values["test"] for values in outcomes]
    assert gaps == sorted(gaps)
    assert gaps[0] < 0.2
    assert gaps[2] > 0.8
    for key in LARGER_FOR_LARGER_GAPS:
        assert outcomes[0][key] < outcomes[1][key] < outcomes[2][key], key
    for key in SMALLER_FOR_LARGER_GAPS:
        assert outcomes[0][key] > max(outcomes[1][key], outcomes[2][key]), key
