"""What a measurement may cost, on a clock of its own."""

from __future__ import annotations

import math

import pytest

from lightning_gengap.monitor.allowance import FLOOR, RECENT, RESERVE, SHARE, START, START_SHARE, Budget


@pytest.mark.parametrize(
    ("budget", "share_of_epoch", "allowed"),
    [
        (Budget(None, epoch_spent=1e6), 1.0, math.inf),
        (Budget(0.05), 1.0, 0.5),
        (Budget(0.001, epoch_trained=9.0), 1.0, 0.5),  # half a second whatever the share is
        (Budget(0.05, epoch_trained=40.0), 1.0, 1.92),
        (Budget(0.02, epoch_trained=40.0), 1.0, 0.8),
        (Budget(0.5, epoch_trained=40.0), 1.0, 1.92),  # the rest of a large budget is for optional measures
        (Budget(0.05, epoch_trained=40.0, saved=3.0), 1.0, 4.92),
        (Budget(0.05, epoch_trained=1.0), 0.25, 0.125),  # half a second is for all measurements of an epoch
        (Budget(0.05, epoch_trained=1.0, epoch_spent=0.1), 0.25, 0.025),
        (Budget(0.05, start_up=50.0, spent=9.0), 1.0, 0.5),
    ],
)
def test_an_epoch_allows_five_percent_or_half_a_second(budget: Budget, share_of_epoch: float, allowed: float):
    assert budget.allowance(share_of_epoch) == pytest.approx(allowed)


def test_what_nobody_took_adds_up_until_the_next_measurement():
    budget = Budget(0.05)
    for _ in range(3):
        budget.train(20.0)
        budget.end_epoch()
    assert budget.saved == pytest.approx(3 * SHARE * 20.0)
    budget.train(20.0)
    assert budget.allowance() == pytest.approx(4 * SHARE * 20.0)
    budget.spend(0.1)
    budget.pay(0.1, 1000)
    budget.end_epoch()
    assert budget.saved == 0.0
    assert budget.trained == 80.0


def test_what_was_taken_too_much_is_owed_up_to_what_an_epoch_allows_but_not_by_the_first_measurement():
    budget, allowed = Budget(0.05), SHARE * 20.0
    for taken, left in ((9.0, allowed), (allowed + 0.3, allowed - 0.3), (9.0, 0.0), (0.0, allowed)):
        budget.train(20.0)
        if taken:
            budget.spend(taken)
            budget.pay(taken, 256)
        budget.end_epoch()
        budget.train(20.0)
        assert budget.allowance() == pytest.approx(left)
        budget.epoch_trained = 0.0


def test_what_the_whole_budget_pays_for_is_not_booked_on_the_allowance():
    budget = Budget(0.05)
    budget.train(20.0)
    budget.pay(0.4, 256, others=5.0)
    budget.spend(5.5)
    assert budget.allowance() == pytest.approx(SHARE * 20.0 - 0.5)
    assert budget.spent == 5.5


def test_an_epoch_is_paid_for_although_half_of_the_measurements_take_more_than_is_expected():
    budget, measured = Budget(0.05), 0
    for epoch in range(300):
        budget.train(13.0)
        if not budget.prices or 256 * budget.price <= budget.allowance():
            seconds = 0.65 * (0.9 + 0.2 * (epoch % 2))
            budget.spend(seconds)
            budget.pay(seconds, 256)
            measured += 1
        budget.end_epoch()
    assert budget.overhead <= 0.05
    assert measured >= 150


def test_the_next_price_is_the_median_of_the_last_ones_and_the_first_guess_counts_until_there_is_one():
    budget = Budget(0.05)
    assert budget.price == 0.0
    budget.first_price = 0.3
    assert budget.price == 0.3
    for seconds in (400.0, *RECENT * (1.0,)):
        budget.pay(seconds, 10)
    assert budget.price == pytest.approx(0.1)


@pytest.mark.parametrize("epoch_seconds", [0.2, 5.0, 40.0])
@pytest.mark.parametrize("full", [0.01, 0.4, 1.5, 30.0])
def test_the_cost_stays_within_the_allowance_over_a_long_run(epoch_seconds: float, full: float):
    budget, allowed = Budget(0.05), 0.0
    for epoch in range(300):
        budget.train(epoch_seconds)
        allowed += max(FLOOR, SHARE * epoch_seconds)
        if full <= budget.allowance():
            seconds = full * (0.9 + 0.2 * (epoch % 2))
            budget.spend(seconds)
            budget.pay(seconds, 1024)
        budget.end_epoch()
    assert 0 < budget.spent <= allowed + full
    assert budget.spent > 0.4 * min(allowed, 300 * full)


def test_the_overhead_counts_the_start():
    assert Budget(0.05, spent=1.0).overhead == 0.0  # before any training
    assert Budget(0.05, start_up=3.0, spent=1.0, trained=20.0).overhead == 0.2


def test_the_start_and_the_prediction_leave_less_to_optional_measures():
    assert Budget(0.05, start_up=3.0, spent=1.0, trained=200.0).left == pytest.approx(6.0)
    assert Budget(None, start_up=3.0).left == math.inf


def test_state_continues_the_account():
    budget = Budget(0.05, start_up=2.0, trained=30.0, saved=1.0, epoch_trained=3.0)
    budget.pay(1.0, 100)
    again = Budget(0.05, **budget.state())
    assert again == budget
    again.pay(1.0, 100)
    assert len(budget.prices) == 1


@pytest.mark.parametrize(
    ("budget", "left", "first", "seconds"),
    [
        (Budget(None), 0.0, False, math.inf),
        (Budget(0.05), 0.0, True, START + RESERVE * FLOOR),
        (Budget(0.05, start_up=0.75), 0.25, True, 0.5 + RESERVE * FLOOR),
        (Budget(0.05, start_up=0.75), 0.25, False, 0.25 + RESERVE * FLOOR),
        (Budget(0.05, start_up=9.0), -3.0, True, RESERVE * FLOOR),
        (Budget(0.05, start_up=9.0, trained=40.0), 0.0, True, START_SHARE * 40 - 9 + RESERVE * FLOOR),
        (Budget(0.05, put_aside=2.0), 0.25, False, 2.25 + RESERVE * FLOOR),
        (Budget(0.05, put_aside=-2.0), 0.25, False, 0.0),
    ],
)
def test_what_can_be_taken_later_gets_what_is_left(budget: Budget, left: float, first: bool, seconds: float):
    assert budget.spare(left, 1.0, first) == pytest.approx(seconds)


def test_the_start_pays_for_what_could_be_taken_later_as_far_as_it_goes():
    budget = Budget(0.05, start_up=0.25)
    budget.pay_growing(2.0, first=True)
    budget.spend(2.0 - 0.75)  # the clock of the monitor leaves out what belongs to the start
    assert budget.start_up == START
    assert budget.put_aside == pytest.approx(-1.25)
    assert budget.allowance() == pytest.approx(FLOOR), "the prediction does not pay for it"


def test_what_is_taken_in_slices_keeps_to_five_percent_or_half_a_second():
    for seconds_of_epoch in (2.0, 40.0):
        budget, grown = Budget(0.05), 0.0
        for _ in range(200):
            budget.train(seconds_of_epoch)
            allowed = budget.allowance(1.0, growing=True)
            budget.spend(0.2)
            budget.pay(0.2, 1000)
            slice_ = 3.0  # each takes longer than is left of any allowance
            if budget.spare(allowed - 0.2, 1.0, first=False) >= slice_:
                budget.spend(slice_)
                budget.pay_growing(slice_, first=False)
                grown += slice_
            budget.end_epoch(growing=True)
        whole = 200 * max(SHARE * seconds_of_epoch, FLOOR)
        assert whole - slice_ - 1e-9 <= budget.spent <= whole
        assert grown > 0.5 * (whole - 200 * 0.2)


def test_nothing_is_put_aside_once_nothing_grows():
    budget = Budget(0.05)
    for growing, kept in ((True, True), (False, False)):
        budget.train(20.0)
        budget.spend(0.1)
        budget.pay(0.1, 1000)
        budget.end_epoch(growing)
        assert (budget.put_aside > 0) == kept
