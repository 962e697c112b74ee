from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_gengap.errors import MeasureError
from lightning_gengap.measurer import Measurer, TrainingMemory
from lightning_gengap.network.probe import copy_state
from lightning_gengap.samples.reader import Samples
from tests import networks
from tests.lightning_models import careless, put_measure
from tests.probes import read

COUNT = 40


def samples(model: nn.Module) -> Samples:
    images = networks.images(COUNT)
    batches = read(images, networks.mostly_right_targets(model, images), chunk=16)
    return Samples(batches, 500, augmented=False)


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


@pytest.mark.parametrize("optional", [False, True])
def test_margins_over_the_spectral_complexity_are_there_where_they_are_measured(
    model: nn.Module, optional: bool
) -> None:
    names, others = (["margin", "fit"], ["bartlett"]) if optional else (["margin", "fit", "bartlett"], [])
    measurement = Measurer.of(model, samples(model)).measure(model, names, others)
    assert list(measurement.figures) == [f"margin/{name}" for name in ("input", "h1", "h2", "h3", "bartlett")]
    median = float(measurement.figures["margin/bartlett"].samples.double().quantile(0.5))
    values = measurement.optional["bartlett"] if optional else measurement.values
    assert median == pytest.approx(values["bartlett/median"], rel=1e-6)


def test_measures_of_the_task_are_taken_once_and_repeated(model: nn.Module) -> None:
    memory = TrainingMemory(copy_state(model))
    measurer = Measurer.of(model, samples(model), memory)
    first = measurer.measure(model, ["difficulty"]).values
    memory.initial_state = {name: value + 1 for name, value in copy_state(model).items()}
    later = measurer.measure(model, ["difficulty", "fit"]).values
    assert "difficulty/ridge_accuracy" in first
    assert first.items() <= later.items()
    assert memory.taken == ["difficulty"]


def test_a_failed_measure_of_the_task_is_tried_again(model: nn.Module) -> None:
    memory = TrainingMemory({"0.weight": torch.zeros(1)})
    measurer = Measurer.of(model, samples(model), memory)
    with pytest.raises(MeasureError, match="measure 'difficulty': got RuntimeError"):
        measurer.measure(model, ["difficulty"])
    memory.initial_state = copy_state(model)
    assert "difficulty/ridge_accuracy" in measurer.measure(model, ["difficulty"]).values


def test_warm_starts_are_kept_between_measurements(model: nn.Module) -> None:
    measurer = Measurer.of(model, samples(model), TrainingMemory(copy_state(model)))
    first = measurer.measure(model, ["representation"]).values
    assert set(measurer.memory.warm_starts) == {"representation/initial"}
    assert measurer.measure(model, ["representation"]).values == first


def test_what_is_absent_is_noted_in_every_measurement() -> None:
    model = networks.made(networks.VisionTransformer)
    measurer = Measurer.of(model, samples(model))
    for _ in range(2):
        (note,) = measurer.measure(model, ["norm"]).notes
        assert "norm/* is absent: VisionTransformer has parameters outside its layers" in note


def test_chance_is_the_share_of_the_largest_class() -> None:
    images, targets = networks.images(10), torch.tensor([0] * 7 + [1] * 3)
    measurer = Measurer.of(networks.made(networks.mlp), Samples(read(images, targets), 10, False))
    assert measurer.chance() == pytest.approx(0.7)


def test_an_unknown_measure_is_refused_before_anything_is_measured(model: nn.Module) -> None:
    measurer = Measurer.of(model, samples(model))
    with pytest.raises(MeasureError, match="'norms'"):
        measurer.measure(model, ["fit", "norms"])


def test_an_optional_measure_that_fails_leaves_the_others_as_they_are(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Measurer.of(model, samples(model)).measure(model, ["margin", "fit", "norm", "perturbation"])
    put_measure(monkeypatch, "spoiled", careless(MemoryError("too large")))
    measurer = Measurer.of(model, samples(model))
    measurement = measurer.measure(model, ["margin", "fit"], ["norm", "spoiled", "perturbation"])
    assert set(measurement.optional) == {"norm", "perturbation"}
    together = measurement.values | measurement.optional["norm"] | measurement.optional["perturbation"]
    assert together == pytest.approx(expected.values, rel=1e-4)
    assert str(measurement.failures["spoiled"]).startswith("measure 'spoiled': got MemoryError: too large;")
    assert measurement.failures["spoiled"].__cause__ is None
    assert set(measurement.seconds) == {"norm", "spoiled", "perturbation"}


def test_optional_measures_of_the_task_are_taken_once(model: nn.Module) -> None:
    measurer = Measurer.of(model, samples(model), TrainingMemory(copy_state(model)))
    first = measurer.measure(model, ["fit"], ["difficulty"])
    later = measurer.measure(model, ["fit"], ["difficulty"])
    assert first.optional["difficulty"].items() <= later.values.items()
    assert later.optional == later.seconds == {}


def test_what_has_diverged_is_not_measured_further(model: nn.Module) -> None:
    measurer = Measurer.of(model, samples(model))
    with torch.no_grad():
        model[-1].bias.fill_(torch.nan)
    assert measurer.measure(model, ["fit"], ["perturbation"]).seconds == {}
