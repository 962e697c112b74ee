"""What callbacks find: values of now, or ones that win nothing."""

from __future__ import annotations

import pytest

from lightning_gengap.monitor.logged_keys import PREDICTED
from lightning_gengap.monitor.readout import GAPS, LARGE, Readout, Status

FRESH = {"train_accuracy": 0.9, "train_loss": 0.3, "predicted_gap": 0.2, "predicted_test_accuracy": 0.7}
KEYS = ("train_accuracy", "train_loss", *(key for key in PREDICTED if key not in ("status", "overhead")))


def shown(readout: Readout, **modes: str) -> dict[str, float]:
    return readout.for_callbacks((*KEYS, *modes), modes)


def after(*values: dict[str, float], status: Status = Status.FRESH) -> Readout:
    readout = Readout()
    for each in values:
        readout.show(each, status)
        shown(readout)
    return readout


def test_values_of_now_are_shown_as_they_are():
    found = shown(after(FRESH))
    assert {key: found[key] for key in FRESH} == FRESH


@pytest.mark.parametrize("status", [Status.HELD, Status.FAILED, Status.OFF])
def test_what_is_not_of_now_is_the_worst_so_far_in_the_direction_of_its_key(status: Status):
    better = {"train_accuracy": 0.95, "train_loss": 0.1, "predicted_gap": 0.1, "predicted_test_accuracy": 0.85}
    for readout in (after(FRESH, better), after(better, FRESH)):
        readout.hold(status)
        assert readout.fresh == {}
        assert readout.status == status
        found = shown(readout)
        assert {key: found[key] for key in FRESH} == FRESH


def test_before_the_first_values_everything_is_finite_and_as_bad_as_can_be():
    found = shown(Readout())
    assert all(found[key] == 1.0 for key in (*GAPS, "actual_gap"))
    assert found["predicted_test_accuracy"] == found["train_accuracy"] == found["in_support"] == 0.0
    assert found["train_loss"] == found["predicted_loss_gap"] == LARGE
    assert set(found) == set(KEYS)


def test_before_the_first_prediction_the_gap_is_the_train_accuracy_unless_somebody_reads_it():
    readout = after({"train_accuracy": 0.4, "train_loss": 1.0}, status=Status.ABSTAINING)
    assert [shown(readout)[key] for key in GAPS] == [0.4] * 6
    assert shown(readout, predicted_gap="min")["predicted_gap"] == 1.0


def test_an_abstention_shows_what_was_measured_and_no_prediction():
    readout = after(FRESH)
    readout.show({"train_accuracy": 0.99, "train_loss": 0.1}, Status.ABSTAINING)
    found = shown(readout)
    assert (found["train_accuracy"], found["predicted_gap"], found["predicted_test_accuracy"]) == (0.99, 0.2, 0.7)
    assert found["in_support"] == 0.0


@pytest.mark.parametrize(("mode", "worst"), [("min", LARGE), ("max", -LARGE)])
def test_a_measured_key_follows_the_mode_of_whoever_decides_by_it(mode: str, worst: float):
    key = "norm/log_product_spectral"
    readout = Readout()
    assert readout.for_callbacks([key], {}) == {}
    assert readout.for_callbacks([key], {key: mode}) == {key: worst}
    for value in (1.0, 3.0, 2.0):
        readout.show({key: value}, Status.FRESH)
        assert readout.for_callbacks([key], {key: mode}) == {key: value}
    readout.hold(Status.HELD)
    assert readout.for_callbacks([key], {key: mode}) == {key: worst}
    assert readout.for_callbacks([key], {}) == {key: 2.0}  # nobody decides by it


def test_who_decides_by_a_key_finds_the_end_of_its_range_so_that_later_values_win_too():
    readout = after(FRESH, FRESH | {"predicted_gap": 0.4})
    readout.hold(Status.HELD)
    assert shown(readout)["predicted_gap"] == 0.4
    assert shown(readout, predicted_gap="min")["predicted_gap"] == 1.0
    assert shown(readout, predicted_gap="max")["predicted_gap"] == 0.0


@pytest.mark.parametrize("status", [Status.ABSTAINING, Status.NEVER])
def test_holding_does_not_hide_an_abstention(status: Status):
    readout = after({"train_accuracy": 0.9, "train_loss": 0.3}, status=status)
    for hold, expected in ((Status.HELD, status), (Status.FAILED, Status.FAILED), (Status.HELD, status)):
        readout.hold(hold)
        assert readout.status == expected
    readout.show(FRESH, Status.FRESH)
    readout.hold(Status.HELD)
    assert readout.status == Status.HELD


def test_what_goes_on_from_a_checkpoint_is_of_now_no_longer():
    readout = after(FRESH)
    again = Readout.restored(readout.state())
    assert (again.status, again.fresh) == (Status.HELD, {})
    readout.hold(Status.HELD)
    assert again == readout
    assert type(readout.state()["status"]) is int  # a checkpoint holds primitives alone
