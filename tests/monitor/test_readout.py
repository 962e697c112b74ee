from __future__ import annotations

import pytest

from lightning_gengap.monitor.readout import Readout, Status
from lightning_gengap.predictors.predictor import Prediction


def prediction(gap: float, abstained: bool = False, loss_gap: float | None = None) -> Prediction:
    loss = None if loss_gap is None else (loss_gap, 0.0, 2 * loss_gap)
    return Prediction(gap, gap - 0.05, gap + 0.05, not abstained, abstained, (), {"intercept": gap}, loss)


def values(accuracy: float) -> dict[str, float]:
    return {"train_accuracy": accuracy, "train_loss": 0.3, "margin/h1/median": 1.0}


PREDICTED = {"predicted_gap", "predicted_gap_lower", "predicted_gap_upper", "predicted_test_accuracy", "in_support"}


def test_a_fresh_prediction_is_shown_whole():
    shown = Readout().show(values(0.9), prediction(0.2))
    assert set(shown) == PREDICTED | {"train_accuracy", "train_loss", "status"}
    assert shown["predicted_test_accuracy"] == pytest.approx(0.7)
    assert (shown["predicted_gap_lower"], shown["predicted_gap_upper"]) == (pytest.approx(0.15), pytest.approx(0.25))
    assert (shown["in_support"], shown["status"]) == (1.0, Status.FRESH)


def test_without_a_predictor_only_the_fit_is_shown():
    assert Readout().show(values(0.9), None) == {"train_accuracy": 0.9, "train_loss": 0.3, "status": 0.0}


@pytest.mark.parametrize("status", [Status.HELD, Status.FAILED, Status.OFF])
def test_held_values_stay_with_the_reason(status: Status):
    readout = Readout()
    shown = readout.show(values(0.9), prediction(0.2))
    assert readout.hold(status) == shown | {"status": float(status)}


def test_an_abstention_shows_the_larger_of_prior_and_last_gap():
    readout = Readout()
    assert readout.show(values(0.9), prediction(0.2, abstained=True))["predicted_gap"] == 0.2
    readout.show(values(0.9), prediction(0.4))
    assert readout.show(values(0.95), prediction(0.2, abstained=True))["predicted_gap"] == 0.4
    assert readout.show(values(0.3), prediction(0.2, abstained=True))["predicted_gap"] == pytest.approx(0.3)


def test_test_accuracy_never_rises_while_abstaining():
    readout = Readout()
    readout.show(values(0.6), prediction(0.1))
    for accuracy in (0.7, 0.9, 1.0, 0.4):
        shown = readout.show(values(accuracy), prediction(0.05, abstained=True))
        assert shown["status"] == Status.ABSTAINING
        assert 0 <= shown["predicted_test_accuracy"] <= 0.5 + 1e-12
    assert readout.show(values(1.0), prediction(0.1))["predicted_test_accuracy"] == pytest.approx(0.9)


def test_holding_does_not_hide_an_abstention():
    readout = Readout()
    readout.show(values(0.9), prediction(0.2, abstained=True))
    assert readout.hold(Status.HELD)["status"] == Status.ABSTAINING
    assert readout.hold(Status.FAILED)["status"] == Status.FAILED
    assert readout.hold(Status.HELD)["status"] == Status.ABSTAINING
    readout.show(values(0.9), prediction(0.2))
    assert readout.hold(Status.HELD)["status"] == Status.HELD


def test_what_is_returned_is_a_copy():
    readout = Readout()
    readout.show(values(0.9), prediction(0.2))["predicted_gap"] = float("nan")
    assert readout.shown["predicted_gap"] == 0.2


def test_state_rebuilds_the_readout():
    readout = Readout()
    readout.show(values(0.9), prediction(0.2))
    readout.show_recalibrated(0.3)
    readout.show(values(0.9), prediction(0.2, abstained=True, loss_gap=0.5))
    readout.show_recalibrated(None)
    assert Readout.restored(readout.state()) == readout


def test_states_of_other_versions_rebuild_the_readout():
    readout = Readout()
    readout.show(values(0.9), prediction(0.2))
    older = {key: readout.state()[key] for key in ("shown", "last_gap", "last_test_accuracy", "abstaining")}
    assert Readout.restored(older | {"unknown": 1.0}) == readout


def test_the_loss_gap_is_shown_and_held():
    readout = Readout()
    assert readout.show(values(0.9), prediction(0.2, loss_gap=0.7))["predicted_loss_gap"] == 0.7
    assert readout.hold(Status.HELD)["predicted_loss_gap"] == 0.7
    assert readout.show(values(0.9), prediction(0.2, loss_gap=0.4))["predicted_loss_gap"] == 0.4
    assert "predicted_loss_gap" not in readout.show(values(0.9), prediction(0.2))


def test_the_loss_gap_does_not_fall_while_abstaining():
    readout = Readout()
    assert readout.show(values(0.9), prediction(0.2, True, loss_gap=0.5))["predicted_loss_gap"] == 0.5
    readout.show(values(0.9), prediction(0.2, loss_gap=0.7))
    assert readout.show(values(0.9), prediction(0.2, True, loss_gap=0.5))["predicted_loss_gap"] == 0.7
    assert readout.show(values(0.9), prediction(0.2), prior_loss_gap=0.5)["predicted_loss_gap"] == 0.7
    assert readout.show(values(0.9), prediction(0.2), prior_loss_gap=0.8)["predicted_loss_gap"] == 0.8
    assert readout.show(values(0.9), prediction(0.2, loss_gap=0.1), prior_loss_gap=0.8)["predicted_loss_gap"] == 0.1


def test_the_recalibrated_gap_is_held_and_does_not_fall_while_abstaining():
    readout = Readout()
    readout.show(values(0.9), prediction(0.2))
    readout.show_recalibrated(0.4)
    assert readout.hold(Status.HELD)["recalibrated_gap"] == 0.4
    assert readout.shown["predicted_gap"] == 0.2
    for gap, accuracy, expected in ((0.1, 0.9, 0.4), (0.5, 0.9, 0.5), (0.1, 0.3, 0.3)):
        readout.show(values(accuracy), prediction(gap, abstained=True))
        readout.show_recalibrated(None)
        assert readout.shown["recalibrated_gap"] == pytest.approx(expected)
    readout.show(values(0.9), prediction(0.2))
    readout.show_recalibrated(0.1)
    assert readout.shown["recalibrated_gap"] == 0.1
