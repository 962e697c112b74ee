"""What a curve says: tables, figures, extrapolation, and evidence for another training."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.learning_curves.curve import LearningCurve
from lightning_gengap.learning_curves.origin import Origin, fingerprint_of
from lightning_gengap.learning_curves.part import Part
from tests.lightning_models import TinyModel, blobs

DATA = blobs(160)


def part(samples: int, test: float) -> Part:
    return Part(samples, 2000, 0.99, test, (1, 2), (0.9, 0.99), (test + 0.03, test), 1.0)


@pytest.fixture
def curve() -> LearningCurve:
    origin = Origin.of(TinyModel(), fingerprint_of(DATA), {"max_epochs": 2})
    return LearningCurve((part(125, 0.7), part(250, 0.76), part(500, 0.81)), 1000, 0.1, origin)


def test_accuracy_rises_with_samples_up_to_four_times_all_of_them(curve: LearningCurve):
    read = [curve.extrapolate(samples) for samples in (125, 500, 1000, 2000, 4000)]
    accuracies = [each.accuracy for each in read]
    assert accuracies == sorted(accuracies)
    assert all(each.lower < each.accuracy < each.upper for each in read)
    for samples in (124, 4001, "many", True):
        with pytest.raises(ConfigurationError, match="expected a number from 125 to 4000, 4 times the samples"):
            curve.extrapolate(samples)


def test_the_estimate_goes_by_the_train_accuracy(curve: LearningCurve):
    assert curve.estimate() == curve.extrapolate(1000) == curve.estimate(0.99) == curve.estimate(1.0)
    better = replace(curve, parts=tuple(part(p.samples, p.test_accuracy + 0.03) for p in curve.parts))
    assert curve.estimate(0.9).accuracy == pytest.approx(better.estimate().accuracy)
    for train in (97, -0.1, float("nan"), "all"):
        with pytest.raises(ConfigurationError, match="expected an accuracy fraction"):
            curve.estimate(train)


def test_the_table_shows_parts_and_what_follows(curve: LearningCurve):
    lines = str(curve).splitlines()
    assert lines[2] == "| 125 | 99.0 | 70.0 | 29.0 | trained, 2000 tested |"
    assert [line.split(" | ")[0] for line in lines[5:]] == ["| 1000", "| 2000", "| 4000"]
    read = curve.extrapolate(4000)
    assert f"| {100 * read.accuracy:.1f} |" in lines[-1]
    assert f"expected with four times, {100 * read.lower:.1f} to {100 * read.upper:.1f} |" in lines[-1]


def test_the_figure_is_drawn_and_written(curve: LearningCurve, tmp_path: Path):
    figure = curve.figure(tmp_path / "new folder" / "curve.png")
    (axis,) = figure.axes
    dots = axis.lines[1]
    assert dots.get_xdata().tolist() == [125, 250, 500]
    assert dots.get_ydata().tolist() == pytest.approx([70, 76, 81])
    assert (tmp_path / "new folder" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_table_is_named(curve: LearningCurve, monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    module = "lightning_gengap.learning_curves.figure.find_spec"
    monkeypatch.setattr(module, lambda name: None if name == "matplotlib" else found(name))
    with pytest.raises(ConfigurationError, match=r"got no matplotlib.*print curve.table\(\)"):
        curve.figure()


def test_it_is_evidence_for_its_own_recipe_and_data_alone(curve: LearningCurve):
    assert curve.differences(TinyModel(), DATA) == []
    assert curve.differences(TinyModel(0.5), DATA) == ["hyperparameter learning_rate (0.5 instead of 0.02)"]
    assert "hyperparameter" not in str(curve.differences(TinyModel(classes=5), DATA))
    assert curve.differences(TinyModel(classes=5), DATA) == ["shapes of its parameters"]
    assert curve.differences(TinyModel(), blobs(100))[0] == "the number of training samples (100 instead of 160)"
    assert curve.differences(TinyModel(), blobs(160, seed=1)) == ["inputs"]
    slower = TinyModel()
    slower.body[3].p = 0.9
    assert curve.differences(slower, DATA) == ["layers of the module"]
    assert "Linear instead of" in curve.differences(torch.nn.Linear(2, 2), DATA)[0]
