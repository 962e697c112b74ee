from __future__ import annotations

import pytest

from lightning_gengap.monitor.schedule import Budget


@pytest.mark.parametrize(
    ("budget", "reserved", "allowed"),
    [
        (Budget(None, recent=[1e6], spent=1e6), 0.0, True),
        (Budget(None, recent=[9.0], spent=9.0), 100.0, True),
        (Budget(0.01), 0.0, True),  # the first is always allowed
        (Budget(0.05, trained=39.9, recent=[1.0], spent=1.0), 0.0, False),
        (Budget(0.05, trained=40.0, recent=[1.0], spent=1.0), 0.0, True),
        (Budget(0.05, trained=100.0, recent=[1.0], spent=1.0), 3.0, True),
        (Budget(0.05, trained=100.0, recent=[1.0], spent=1.0), 3.1, False),
        (Budget(0.05, trained=100.0, recent=[1.0], spent=1.0, start_up=50.0), 0.0, True),
        (Budget(0.05, trained=100.0, recent=[10.0], spent=10.0), 0.0, False),
        (Budget(0.05, trained=400.0, recent=[10.0], spent=10.0), 0.0, True),  # a slow one does not stop the rest
    ],
)
def test_a_further_measurement_must_keep_the_share(budget: Budget, reserved: float, allowed: bool):
    assert budget.allows(reserved) is allowed


def test_the_next_cost_is_the_median_of_the_last_five():
    budget = Budget(0.5, trained=1000.0)
    for seconds in (400.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        budget.record(seconds)
    budget.trained = 2 * (405.0 + 1.0)
    assert budget.allows()
    budget.trained -= 0.1
    assert not budget.allows()


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_the_share_holds_over_a_long_run(share: float):
    budget, measured = Budget(share), 0
    for epoch in range(500):
        budget.trained += 1.0
        if budget.allows():
            budget.record(0.3 + 0.1 * (epoch % 3))
            measured += 1
    assert measured > 1
    assert budget.overhead <= share + 0.4 / 500


def test_the_overhead_leaves_out_the_start_and_shows_a_first_measurement_beyond_the_share():
    assert Budget(0.05, spent=1.0).overhead == 0.0  # before any training
    budget = Budget(0.05, start_up=50.0, trained=1.0)
    budget.record(0.5)
    assert budget.overhead == 0.5
    budget.trained = 20.0
    assert budget.overhead == 0.025


def test_time_is_recorded_also_when_the_measurement_fails():
    budget = Budget(0.05)
    with pytest.raises(RuntimeError), budget.measuring():
        raise RuntimeError
    assert len(budget.recent) == 1
    assert budget.spent == budget.recent[0] > 0


def test_state_continues_the_account():
    budget = Budget(0.05, start_up=2.0, trained=30.0)
    budget.record(1.0)
    again = Budget(0.05, **budget.state())
    assert again == budget
    assert not again.allows()
    again.record(1.0)
    assert len(budget.recent) == 1


def test_what_does_not_recur_is_spent_and_not_expected_again():
    budget = Budget(0.05, trained=100.0)
    budget.record(4.0)
    assert not budget.allows()
    budget.set_apart(3.5)
    assert budget.spent == 4.0
    assert budget.allows()
    assert not budget.allows(0.6)
