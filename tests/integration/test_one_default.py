"""The default predictor says the same live, from `measure`, and from `gengap measure`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap import GapMonitor, load_predictor, measure
from lightning_gengap.cli import main
from lightning_gengap.predictors.predictor import Prediction
from lightning_gengap.samples.reader import SampleReader
from lightning_gengap.standalone import ALL, flags_of, measurer_for
from tests.lightning_models import TinyModel, quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*is absent")
SIZE = 400
WARM = {
    "norm/spectral_change",
    "norm/log_product_spectral",
    "norm/log_sum_spectral",
}  # iterations go on where they were


class Classifier(TinyModel):
    """A network in a LightningModule."""

    def __init__(self, net: nn.Module) -> None:
        nn.Module.__init__(self)
        super(TinyModel, self).__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def on_train_start(self) -> None:
        """Keep nothing in eval mode."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


def on_images() -> Classifier:
    """A small convolutional network."""
    convolution = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2)]
    return Classifier(nn.Sequential(*convolution, nn.Linear(8 * 100, 16), nn.ReLU(), nn.Linear(16, 4)))


def on_vectors() -> Classifier:
    """A network of two layers."""
    return Classifier(nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4)))


SHAPES = {on_images: (1, 12, 12), on_vectors: (12,)}


class Run(NamedTuple):
    """What a monitor at default arguments saw in one epoch, and what it saw it of."""

    monitor: GapMonitor
    model: Classifier
    initial: dict[str, Tensor]
    data: TensorDataset
    checkpoint: Path

    @property
    def prediction(self) -> Prediction:
        assert self.monitor.prediction is not None
        return self.monitor.prediction


def watched(build: Callable[[], Classifier], folder: Path, samples: int = 1024) -> Run:
    """Train for an epoch at default arguments."""
    torch.manual_seed(0)
    targets = torch.arange(SIZE) % 4
    inputs = 1.2 * torch.randn(4, *SHAPES[build])[targets] + torch.randn(SIZE, *SHAPES[build])
    model, data = build(), TensorDataset(inputs, targets)
    initial = copy.deepcopy(model.state_dict())
    monitor = GapMonitor(samples=samples)
    trainer = quiet_trainer(monitor, max_epochs=1)
    trainer.fit(model, DataLoader(data, 32, shuffle=True))
    trainer.save_checkpoint(folder / "model.ckpt")
    return Run(monitor, model, initial, data, folder / "model.ckpt")


@pytest.fixture(scope="module", params=[on_images, on_vectors], ids=["images", "vectors"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return watched(request.param, tmp_path_factory.mktemp("run"))


FORMS: dict[str, Callable[[TensorDataset], Any]] = {
    "dataset": lambda data: data,
    "shuffled loader": lambda data: DataLoader(data, 50, shuffle=True),
    "one batch": lambda data: [data.tensors],
    "batches": lambda data: list(zip(data.tensors[0].split(70), data.tensors[1].split(70), strict=True)),
    "mappings": lambda data: [{"x": part[0], "y": part[1]} for part in [data[:150], data[150:]]],
}


@pytest.mark.parametrize("form", FORMS)
def test_it_predicts_the_same_from_what_measure_returns(run: Run, form: str):
    values = measure(run.model, FORMS[form](run.data), initial_state=run.initial)
    prediction = load_predictor("default").predict(values)
    assert not prediction.abstained
    assert prediction == run.prediction
    live = run.monitor.values
    shared = (values.keys() & live.keys()) - WARM
    assert {key: values[key] for key in shared} == {key: live[key] for key in shared}
    assert set(live) - set(values) <= {"progress", "trained_on_copies"} | {
        key for key in live if key.startswith("speed/")
    }


def test_it_predicts_the_same_from_the_network_inside(run: Run):
    inner = {name.removeprefix("net."): value for name, value in run.initial.items()}
    assert load_predictor("default").predict(measure(run.model.net, run.data, initial_state=inner)) == run.prediction


def test_images_are_predicted_by_the_image_predictor(run: Run):
    used = set(run.prediction.contributions)
    assert ("copies/moved_accuracy" in used) == (run.data.tensors[0].ndim == 4)


def test_the_command_prints_the_same(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    build = "on_images" if run.data.tensors[0].ndim == 4 else "on_vectors"
    inputs, labels = (tensor.numpy() for tensor in run.data.tensors)
    np.savez(tmp_path / "data.npz", inputs=inputs, labels=labels)
    arguments = ["--data", str(tmp_path / "data.npz"), "--checkpoint", str(run.checkpoint)]
    assert main(["measure", "--model", f"{__name__}:{build}", *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)["prediction"]
    for name in ("gap", "lower", "upper", "in_support", "abstained", "contributions"):
        assert printed[name] == getattr(run.prediction, name)


def test_a_part_of_the_samples_is_drawn_as_the_monitor_draws_it(tmp_path: Path):
    run = watched(on_images, tmp_path, samples=150)
    values = measure(run.model, run.data, initial_state=run.initial, samples=150)
    assert (values["probe_samples"], values["train_samples"]) == (150, SIZE)
    assert load_predictor("default").predict(values) == run.prediction


def test_the_train_size_counts_where_values_are_extrapolated(run: Run):
    some = measure(run.model, run.data, initial_state=run.initial)
    more = measure(run.model, run.data, initial_state=run.initial, train_samples=8 * SIZE)
    assert (some["train_samples"], more["train_samples"]) == (SIZE, 8 * SIZE)
    growth = some["difficulty/neighbour_10_growth"]
    expected = min(max(some["difficulty/neighbour_10_accuracy"] + 3 * growth, 0.0), 1.0)
    assert more["difficulty/neighbour_10_extrapolated"] == pytest.approx(expected)


def test_weights_that_know_the_task_widen_the_interval(run: Run):
    flags = [
        flags_of(measurer_for(run.model, run.data, SampleReader(ALL), initial), run.model)
        for initial in (run.initial, run.model.state_dict(), None)
    ]
    assert flags == [(), ("initial_weights",), ("initial_weights",)]
