from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.errors import LayerError, LogitsError, MeasureError, TargetError
from lightning_gengap.measurement import Measurer
from lightning_gengap.measures import MEASURES, Measure
from lightning_gengap.network.probe import Probe, copy_state
from lightning_gengap.samples.reader import Samples
from tests import networks
from tests.probes import read

COUNT = 40


def samples(model: nn.Module, train_samples: int | None = 500) -> Samples:
    images = networks.images(COUNT)
    batches = read(images, networks.mostly_right_targets(model, images), chunk=16)
    return Samples(batches, train_samples, augmented=False)


@pytest.fixture
def model() -> nn.Module:
    return networks.made(networks.cnn_with_batch_norm)


def test_values_margins_and_facts_of_the_task_come_together(model: nn.Module) -> None:
    measurement = Measurer.of(model, samples(model)).measure(model, ["margin", "fit"])
    assert measurement.values["train_accuracy"] == pytest.approx(0.8)
    assert measurement.values["train_samples"] == 500
    assert measurement.values["probe_samples"] == COUNT
    assert measurement.values["classes"] == networks.CLASSES
    assert list(measurement.figures) == [f"margin/{layer}" for layer in ("input", "h1", "h2", "h3")]
    assert all(figure.samples.shape == (COUNT,) for figure in measurement.figures.values())
    margins = measurement.figures["margin/h1"].samples
    median = margins[margins > 0].median()
    assert measurement.values["margin/h1/q1"] < median < measurement.values["margin/h1/q3"]


@pytest.mark.parametrize("extra", [False, True])
def test_margins_over_the_spectral_complexity_are_there_where_they_are_measured(model: nn.Module, extra: bool) -> None:
    names, extras = (["margin", "fit"], ["bartlett"]) if extra else (["margin", "fit", "bartlett"], [])
    measurement = Measurer.of(model, samples(model)).measure(model, names, extras)
    assert list(measurement.figures) == [f"margin/{name}" for name in ("input", "h1", "h2", "h3", "bartlett")]
    median = float(measurement.figures["margin/bartlett"].samples.double().quantile(0.5))
    values = measurement.extras["bartlett"] if extra else measurement.values
    assert median == pytest.approx(values["bartlett/median"], rel=1e-6)


def test_an_unknown_number_of_training_samples_is_absent(model: nn.Module) -> None:
    assert "train_samples" not in Measurer.of(model, samples(model, train_samples=None)).task()


def test_measures_of_the_task_are_taken_once_and_repeated(model: nn.Module) -> None:
    measurer = Measurer.of(model, samples(model), initial_state=copy_state(model))
    first = measurer.measure(model, ["difficulty"]).values
    measurer.initial_state = {name: value + 1 for name, value in copy_state(model).items()}
    later = measurer.measure(model, ["difficulty", "fit"]).values
    assert "difficulty/ridge_accuracy" in first
    assert first.items() <= later.items()
    assert measurer.taken == ["difficulty"]


def test_a_failed_measure_of_the_task_is_tried_again(model: nn.Module) -> None:
    measurer = Measurer.of(model, samples(model), initial_state={"0.weight": torch.zeros(1)})
    with pytest.raises(MeasureError, match="measure 'difficulty': got RuntimeError"):
        measurer.measure(model, ["difficulty"])
    measurer.initial_state = copy_state(model)
    assert "difficulty/ridge_accuracy" in measurer.measure(model, ["difficulty"]).values


def test_warm_starts_are_kept_between_measurements(model: nn.Module) -> None:
    measurer = Measurer.of(model, samples(model))
    first = measurer.measure(model, ["norm"]).values["norm/log_product_spectral"]
    assert {"norm/0", "norm/3", "norm/6"} <= set(measurer.memory)
    assert measurer.measure(model, ["norm"]).values["norm/log_product_spectral"] >= first - 1e-5


def test_a_note_is_passed_on_once() -> None:
    model = networks.made(networks.VisionTransformer)
    measurer = Measurer.of(model, samples(model))
    assert len(measurer.measure(model, ["norm"]).notes) == 1
    assert measurer.measure(model, ["norm"]).notes == ()


def test_values_follow_the_weights(model: nn.Module) -> None:
    measurer = Measurer.of(model, samples(model))
    before = measurer.measure(model, ["fit"]).values
    with torch.no_grad():
        model[-1].weight.neg_()
        model[-1].bias.neg_()
    assert measurer.measure(model, ["fit"]).values["train_accuracy"] < before["train_accuracy"]


def test_chance_is_the_share_of_the_largest_class() -> None:
    images, targets = networks.images(10), torch.tensor([0] * 7 + [1] * 3)
    measurer = Measurer.of(networks.made(networks.mlp), Samples(read(images, targets), 10, False))
    assert measurer.chance() == pytest.approx(0.7)


def test_an_unknown_measure_is_refused_before_anything_is_measured(model: nn.Module) -> None:
    measurer = Measurer.of(model, samples(model))
    with pytest.raises(MeasureError, match="'norms'"):
        measurer.measure(model, ["fit", "norms"])


def spoiled(probe: Probe) -> dict[str, float]:
    """Fails after it has done what a careless measure might do."""
    probe.model.train()
    probe.logits_on(probe.batches[0].content, len(probe.batches[0].targets)).sum().backward()
    raise MemoryError("too large")


def test_a_further_measure_that_fails_leaves_the_others_as_they_are(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Measurer.of(model, samples(model)).measure(model, ["margin", "fit", "norm", "perturbation"])
    monkeypatch.setitem(MEASURES, "spoiled", Measure(spoiled, {}, 1))
    measurer = Measurer.of(model, samples(model))
    measurement = measurer.measure(model, ["margin", "fit"], ["norm", "spoiled", "perturbation"])
    assert set(measurement.extras) == {"norm", "perturbation"}
    together = measurement.values | measurement.extras["norm"] | measurement.extras["perturbation"]
    assert together == pytest.approx(expected.values, rel=1e-4)  # warm starts differ
    assert str(measurement.failures["spoiled"]).startswith("measure 'spoiled': got MemoryError: too large;")
    assert measurement.failures["spoiled"].__cause__ is None
    assert set(measurement.seconds) == {"norm", "spoiled", "perturbation"}


def test_a_further_measure_that_fails_can_be_raised_with_its_cause(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MEASURES, "spoiled", Measure(spoiled, {}, 1))
    measurer = Measurer.of(model, samples(model))
    measurer.raises = True
    with pytest.raises(MeasureError, match="'spoiled': got MemoryError: too large") as caught:
        measurer.measure(model, ["fit"], ["spoiled"])
    assert isinstance(caught.value.__cause__, MemoryError)


def test_further_measures_of_the_task_are_taken_once(model: nn.Module) -> None:
    measurer = Measurer.of(model, samples(model), initial_state=copy_state(model))
    first = measurer.measure(model, ["fit"], ["difficulty"])
    later = measurer.measure(model, ["fit"], ["difficulty"])
    assert first.extras["difficulty"].items() <= later.values.items()
    assert later.extras == later.seconds == {}


def test_what_has_diverged_is_not_measured_further(model: nn.Module) -> None:
    measurer = Measurer.of(model, samples(model))
    with torch.no_grad():
        model[-1].bias.fill_(torch.nan)
    assert measurer.measure(model, ["fit"], ["perturbation"]).seconds == {}


class Constant(nn.Module):
    def __init__(self, row: list[float]) -> None:
        super().__init__()
        self.weight, self.row = nn.Parameter(torch.zeros(1)), torch.tensor(row)

    def forward(self, images: Tensor) -> Tensor:
        return self.row.expand(len(images), -1) + 0 * self.weight


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        ([0.5, 0.25, 0.25, 0.0], LogitsError, "look like probabilities"),
        ([1.0, float("nan"), 0.0, 0.0], LogitsError, "NaN or infinity"),
        ([1.0, -1.0], TargetError, "class indices from 0 to 3 for 2 logits"),
    ],
)
def test_outputs_that_cannot_be_measured_are_refused(row: list[float], error: type[Exception], words: str) -> None:
    batches = read(networks.images(8), torch.arange(8) % 4, chunk=4)
    with pytest.raises(error, match=words):
        Measurer.of(Constant(row), Samples(batches, 8, False))


def test_an_unknown_layer_is_refused(model: nn.Module) -> None:
    with pytest.raises(LayerError, match="'nowhere'"):
        Measurer.of(model, samples(model), layers=["nowhere"])
