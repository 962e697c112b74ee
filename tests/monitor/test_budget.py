from __future__ import annotations

import pytest

from lightning_gengap.monitor.budget import Budget


def test_no_share_always_allows():
    budget = Budget(None, trained=0.0)
    budget.record(1e6)
    assert budget.allows()


def test_the_first_measurement_is_always_allowed():
    assert Budget(0.01).allows()


@pytest.mark.parametrize(("trained", "allowed"), [(39.9, False), (40.0, True), (100.0, True)])
def test_a_further_measurement_must_keep_the_share(trained: float, allowed: bool):
    budget = Budget(0.05, trained=trained)
    budget.record(1.0)
    assert budget.allows() is allowed


def test_the_next_cost_is_the_median_of_the_last_five():
    budget = Budget(0.5, trained=1000.0)
    for seconds in (400.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        budget.record(seconds)
    budget.trained = 2 * (405.0 + 1.0)
    assert budget.allows()
    budget.trained -= 0.1
    assert not budget.allows()


def test_one_slow_measurement_does_not_stop_the_rest_for_good():
    budget = Budget(0.05, trained=100.0)
    budget.record(10.0)
    assert not budget.allows()
    budget.trained = 400.0
    assert budget.allows()


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


def test_start_up_is_kept_apart():
    budget = Budget(0.05, start_up=50.0, trained=100.0)
    budget.record(1.0)
    assert budget.overhead == 0.01
    assert budget.allows()


def test_overhead_before_training_is_zero():
    assert Budget(0.05, spent=1.0).overhead == 0.0


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


def test_what_is_reserved_is_left():
    budget = Budget(0.05, trained=100.0)
    budget.record(1.0)
    assert budget.allows(3.0)
    assert not budget.allows(3.1)
    assert Budget(None, spent=9.0, recent=[9.0]).allows(100.0)


def test_what_does_not_recur_is_spent_and_not_expected_again():
    budget = Budget(0.05, trained=100.0)
    budget.record(4.0)
    assert not budget.allows()
    budget.set_apart(3.5)
    assert budget.spent == 4.0
    assert budget.allows()
    assert not budget.allows(0.6)


def test_a_first_measurement_beyond_the_share_shows_in_the_overhead():
    budget = Budget(0.05, trained=1.0)
    assert budget.allows()
    budget.record(0.5)
    assert budget.overhead == 0.5
    budget.trained = 20.0
    assert budget.overhead == 0.025
