from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from lightning_gengap.monitor.readout import Readout, Status
from lightning_gengap.predictors.predictor import Prediction


def prediction(gap: float, abstained: bool = False, loss_gap: float | None = None) -> Prediction:
    loss = None if loss_gap is None else (loss_gap, 0.0, 2 * loss_gap)
    return Prediction(gap, gap - 0.05, gap + 0.05, not abstained, abstained, (), {"intercept": gap}, loss)


def values(accuracy: float) -> dict[str, float]:
    return {"train_accuracy": accuracy, "train_loss": 0.3, "margin/h1/median": 1.0}


def show(readout: Readout, *arguments: Any, **named: Any) -> dict[str, float]:
    """What is shown after a measurement."""
    readout.show(*arguments, **named)
    return dict(readout.shown)


def hold(readout: Readout, status: Status) -> dict[str, float]:
    readout.hold(status)
    return dict(readout.shown)


PREDICTED = {"predicted_gap", "predicted_gap_lower", "predicted_gap_upper", "predicted_test_accuracy", "in_support"}


def test_a_fresh_prediction_is_shown_whole():
    shown = show(Readout(), values(0.9), prediction(0.2))
    assert set(shown) == PREDICTED | {"train_accuracy", "train_loss", "status"}
    assert shown["predicted_test_accuracy"] == pytest.approx(0.7)
    assert (shown["predicted_gap_lower"], shown["predicted_gap_upper"]) == (pytest.approx(0.15), pytest.approx(0.25))
    assert (shown["in_support"], shown["status"]) == (1.0, Status.FRESH)


def test_without_a_predictor_only_the_fit_is_shown():
    assert show(Readout(), values(0.9), None) == {"train_accuracy": 0.9, "train_loss": 0.3, "status": 0.0}


@pytest.mark.parametrize("status", [Status.HELD, Status.FAILED, Status.OFF])
def test_held_values_stay_with_the_reason(status: Status):
    readout = Readout()
    shown = show(readout, values(0.9), prediction(0.2))
    assert hold(readout, status) == shown | {"status": float(status)}


def test_an_abstention_shows_the_larger_of_prior_and_last_gap():
    readout = Readout()
    assert show(readout, values(0.9), prediction(0.2, abstained=True))["predicted_gap"] == 0.2
    readout.show(values(0.9), prediction(0.4))
    assert show(readout, values(0.95), prediction(0.2, abstained=True))["predicted_gap"] == 0.4
    assert show(readout, values(0.3), prediction(0.2, abstained=True))["predicted_gap"] == pytest.approx(0.3)


def test_test_accuracy_never_rises_while_abstaining():
    readout = Readout()
    readout.show(values(0.6), prediction(0.1))
    for accuracy in (0.7, 0.9, 1.0, 0.4):
        shown = show(readout, values(accuracy), prediction(0.05, abstained=True))
        assert shown["status"] == Status.ABSTAINING
        assert 0 <= shown["predicted_test_accuracy"] <= 0.5 + 1e-12
    assert show(readout, values(1.0), prediction(0.1))["predicted_test_accuracy"] == pytest.approx(0.9)


def test_holding_does_not_hide_an_abstention():
    readout = Readout()
    readout.show(values(0.9), prediction(0.2, abstained=True))
    assert hold(readout, Status.HELD)["status"] == Status.ABSTAINING
    assert hold(readout, Status.FAILED)["status"] == Status.FAILED
    assert hold(readout, Status.HELD)["status"] == Status.ABSTAINING
    readout.show(values(0.9), prediction(0.2))
    assert hold(readout, Status.HELD)["status"] == Status.HELD


def test_state_rebuilds_the_readout():
    readout = Readout()
    readout.show(values(0.9), prediction(0.2))
    readout.show_recalibrated(0.3)
    readout.show(values(0.9), prediction(0.2, abstained=True, loss_gap=0.5))
    readout.show_recalibrated(None)
    assert Readout(**asdict(readout)) == readout


def test_the_loss_gap_is_shown_and_held():
    readout = Readout()
    assert show(readout, values(0.9), prediction(0.2, loss_gap=0.7))["predicted_loss_gap"] == 0.7
    assert hold(readout, Status.HELD)["predicted_loss_gap"] == 0.7
    assert show(readout, values(0.9), prediction(0.2, loss_gap=0.4))["predicted_loss_gap"] == 0.4
    assert "predicted_loss_gap" not in show(readout, values(0.9), prediction(0.2))


def test_the_loss_gap_does_not_fall_while_abstaining():
    readout = Readout()
    assert show(readout, values(0.9), prediction(0.2, True, loss_gap=0.5))["predicted_loss_gap"] == 0.5
    readout.show(values(0.9), prediction(0.2, loss_gap=0.7))
    assert show(readout, values(0.9), prediction(0.2, True, loss_gap=0.5))["predicted_loss_gap"] == 0.7
    assert show(readout, values(0.9), prediction(0.2), prior_loss_gap=0.5)["predicted_loss_gap"] == 0.7
    assert show(readout, values(0.9), prediction(0.2), prior_loss_gap=0.8)["predicted_loss_gap"] == 0.8
    assert show(readout, values(0.9), prediction(0.2, loss_gap=0.1), prior_loss_gap=0.8)["predicted_loss_gap"] == 0.1


def test_the_recalibrated_gap_is_held_and_does_not_fall_while_abstaining():
    readout = Readout()
    readout.show(values(0.9), prediction(0.2))
    readout.show_recalibrated(0.4)
    assert hold(readout, Status.HELD)["recalibrated_gap"] == 0.4
    assert readout.shown["predicted_gap"] == 0.2
    for gap, accuracy, expected in ((0.1, 0.9, 0.4), (0.5, 0.9, 0.5), (0.1, 0.3, 0.3)):
        show(readout, values(accuracy), prediction(gap, abstained=True))
        readout.show_recalibrated(None)
        assert readout.shown["recalibrated_gap"] == pytest.approx(expected)
    readout.show(values(0.9), prediction(0.2))
    readout.show_recalibrated(0.1)
    assert readout.shown["recalibrated_gap"] == 0.1
