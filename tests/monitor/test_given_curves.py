"""A learning curve counts at the last epoch of its own recipe on its own samples."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from torch.utils.data import DataLoader

from lightning_gengap.predictors.estimate import EstimatedAccuracy
from tests.learning_curves.tiny_curves import SAMPLES, tiny_curve, tiny_module
from tests.lightning_models import blobs, fitted
from tests.tiny_predictors import tiny_monitor

pytestmark = pytest.mark.filterwarnings("ignore:.*is absent")
ESTIMATE, PREDICTION = "gengap/estimated_test_accuracy", "gengap/predicted_test_accuracy"


class Curve:
    """Says 0.4, and in what a training differs."""

    def __init__(self, *differ: str) -> None:
        self.differ, self.asked = list(differ), list[Any]()

    def estimate(self) -> EstimatedAccuracy:
        return EstimatedAccuracy(0.4, 1e-4)

    def differences(self, module: Any, dataset: Any, **how: Any) -> list[str]:
        self.asked.append(dataset)
        return self.differ


def test_it_is_taken_for_the_last_epoch_alone() -> None:
    curve = Curve()
    rows = fitted(tiny_monitor(evidence=[curve]), max_epochs=3).rows
    assert [row[ESTIMATE] == pytest.approx(row[PREDICTION]) for row in rows] == [True, True, False]
    assert rows[-1][ESTIMATE] == pytest.approx(0.4, abs=1e-3)
    assert len(curve.asked) == 1


def test_another_recipe_is_said_once_and_the_other_evidence_counts() -> None:
    other = Curve("hyperparameter lr", "data set")
    with pytest.warns(UserWarning, match="another hyperparameter lr; another data set.*other evidence alone") as said:
        rows = fitted(tiny_monitor(evidence=[other, EstimatedAccuracy(0.6, 1e-4)]), max_epochs=3).rows
    assert sum("learning curve" in str(each.message) for each in said) == 1
    assert rows[-1][ESTIMATE] == pytest.approx(0.6, abs=1e-3)


def test_what_is_listed_twice_counts_once() -> None:
    for one in (Curve(), EstimatedAccuracy(0.6, 0.02)):
        once, twice = (fitted(tiny_monitor(evidence=listed), max_epochs=2).rows for listed in ([one], [one, one]))
        assert twice[-1]["gengap/equivalent_hold_out"] == once[-1]["gengap/equivalent_hold_out"]


def test_one_that_cannot_be_compared_does_not_end_the_training() -> None:
    class Broken(Curve):
        def differences(self, module: Any, dataset: Any, **how: Any) -> list[str]:
            raise OSError("damaged file")

    with pytest.warns(UserWarning, match="could not be compared with this training: OSError: damaged file|damaged"):
        rows = fitted(tiny_monitor(evidence=[Broken()]), max_epochs=2).rows
    assert rows[-1][ESTIMATE] == pytest.approx(rows[-1][PREDICTION])


def test_a_real_curve_is_evidence_for_its_module_on_its_samples() -> None:
    data = blobs(SAMPLES)
    curve = tiny_curve(tiny_module(), data)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*learning curve.*")
        model, monitor = tiny_module(), tiny_monitor(evidence=[curve])
        rows = fitted(monitor, model=model, data=DataLoader(data, batch_size=16, shuffle=True), max_epochs=2).rows
    assert rows[-1][ESTIMATE] != rows[-1][PREDICTION]
    with pytest.warns(UserWarning, match="does not use a learning curve"):
        fitted(tiny_monitor(evidence=[curve]), model=tiny_module(), data=DataLoader(blobs(SAMPLES, seed=5), 16))


@pytest.mark.parametrize(
    ("batch", "epochs", "differ"), [(8, 2, r"argument batch_size \(8 instead of 16"), (16, 3, "argument max_epochs")]
)
def test_a_curve_of_another_training_is_none(batch: int, epochs: int, differ: str) -> None:
    data = blobs(SAMPLES)
    curve = tiny_curve(tiny_module(), data)
    loader = DataLoader(data, batch_size=batch, shuffle=True)
    with pytest.warns(UserWarning, match=f"does not use a learning curve.*another {differ}"):
        rows = fitted(tiny_monitor(evidence=[curve]), model=tiny_module(), data=loader, max_epochs=epochs).rows
    assert rows[-1][ESTIMATE] == pytest.approx(rows[-1][PREDICTION])
