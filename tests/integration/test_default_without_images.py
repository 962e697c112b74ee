"""The default where there are no images: on vectors and on tokens, live and by `measure`."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapMonitor, load_predictor, measure
from tests.lightning_models import quiet_trainer
from tests.outcomes import Classifier

NAME = "default_v4"
pytestmark = [pytest.mark.filterwarnings("ignore:You defined a `val"), pytest.mark.filterwarnings("ignore:.*is absent")]


def vectors(count: int = 320) -> TensorDataset:
    """Three overlapping clouds."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(count) % 3
    means = 1.5 * torch.randn(3, 6, generator=generator)
    return TensorDataset(means[targets] + torch.randn(count, 6, generator=generator), targets)


def texts(count: int = 320) -> TensorDataset:
    """Texts of eight tokens of which some tell the class; 0 is padding."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(count) % 2
    tokens = torch.randint(10, 60, (count, 8), generator=generator)
    telling = torch.rand(count, generator=generator) < 0.8
    tokens[:, 0] = torch.where(telling, 1 + targets, 1 + torch.randint(2, (count,), generator=generator))
    tokens[:, 6:] = 0
    return TensorDataset(tokens, targets)


class Bag(nn.Module):
    """The mean of embeddings, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(60, 8, padding_idx=0), nn.Linear(8, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.relu(self.table(tokens).mean(1)))


DATA = {
    "vectors": (vectors, lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))),
    "texts": (texts, Bag),
}


@pytest.mark.parametrize("kind", DATA)
def test_it_predicts_and_measure_gives_the_same_number(kind: str) -> None:
    make, build = DATA[kind]
    torch.manual_seed(0)
    data, model = make(), Classifier(build())
    initial = copy.deepcopy(model.state_dict())
    monitor = GapMonitor(samples=256, budget=None, seed=3)
    trainer = quiet_trainer(monitor, max_epochs=4)
    trainer.fit(model, DataLoader(data, batch_size=16, shuffle=True))
    shown = {key: float(value) for key, value in trainer.callback_metrics.items()}
    assert shown["gengap/status"] == 0
    assert math.isfinite(shown["gengap/predicted_gap"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it names the best reference, and what other kinds of data have
        values = measure(model, data, load_predictor(NAME).measures, initial, samples=256, seed=3)
    values["progress"] = 1.0
    prediction = load_predictor(NAME).predict(values)
    assert prediction.gap == pytest.approx(shown["gengap/predicted_gap"], abs=1e-6)


def test_it_needs_no_images_no_margins_and_no_initial_weights() -> None:
    assert set(load_predictor(NAME).needs) == {
        "train_accuracy",
        "train_loss",
        "reference/best_accuracy",
        "agreement/best",
        "agreement/by_reference",
        "agreement/reference_by_accuracy",
        "agreement/order",
        "train_samples",
    }
