"""Which measures a monitor takes, and when the expensive ones, on a clock of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import mean

import pytest

from lightning_gengap.measures import get_measure
from lightning_gengap.monitor.allowance import Budget
from lightning_gengap.monitor.schedule import EXPENSIVE, MOST_FAILURES, Schedule, Selection
from lightning_gengap.predictors.files import load_predictor
from tests.tiny_predictors import tiny_predictor


def test_measures_taken_once_are_those_not_taken_yet_needed_ones_apart():
    selection = Selection.of(tiny_predictor(), ["input_difficulty", "norm"], everything=False)
    assert selection.needed == ("fit", "difficulty")
    assert selection.once([]) == (["difficulty"], ["input_difficulty"])
    assert selection.once(["difficulty"]) == ([], ["input_difficulty"])


def test_what_is_taken_once_costs_the_schedule_nothing_and_expensive_measures_are_counted_apart():
    schedule = Selection.of(tiny_predictor(), ["input_difficulty", "norm", "hessian"], everything=False).schedule()
    forwards = {name: get_measure(name).forwards for name in ("fit", "norm", "hessian")}
    assert schedule.forwards == {"input_difficulty": 0.0, "norm": forwards["norm"], "hessian": forwards["hessian"]}
    assert schedule.needed == forwards["fit"]
    assert [name for name in schedule.forwards if schedule.is_expensive(name)] == ["hessian"]


def test_a_measure_of_which_some_keys_are_wanted_is_expected_to_cost_that_part():
    predictor = load_predictor("images_v3")
    some = Selection.of(predictor, ())
    assert some.wanted is not None
    assert len(some.wanted & get_measure("perturbation").keys.keys()) == 1
    assert some.schedule().needed == pytest.approx(2.0)  # one forward on the samples, one on copies
    everything = Selection.of(predictor, (), everything=True)
    assert everything.schedule().needed == pytest.approx(6.0)


def test_on_images_only_the_preferred_predictors_measures_are_needed():
    default = load_predictor("default")
    before = Selection.of(default, ["perturbation"], drawn=True)
    assert {"reference", "agreement", "copies"} <= set(before.needed)
    after = before.on_images()
    assert after.predictor == default.preferred
    assert set(after.needed) == {"fit", *load_predictor("images_v5").measures}
    assert set(after.measures) == {*after.needed, "perturbation", "margin", "norm", "soft_rank"}
    assert Selection.of(default, (), everything=True).on_images().explained is None
    assert Selection.of(tiny_predictor(), ()).on_images() == Selection.of(tiny_predictor(), ())


def test_margins_norms_and_the_soft_rank_are_optional_and_taken_where_more_than_the_prediction_is_shown():
    predictor = tiny_predictor()
    assert Selection.of(predictor, ()).measures == ("fit", "difficulty")
    assert Selection.of(predictor, (), drawn=True).measures == ("fit", "difficulty", "margin", "norm", "soft_rank")
    assert "margin" not in Selection.of(predictor, (), drawn=True).needed
    assert "margin" in Selection.of(replace(predictor, measures=("margin",)), ()).needed


def test_what_was_asked_for_is_what_was_named_or_everything():
    assert Selection.of(tiny_predictor(), ["norm"], drawn=True).asked == ("norm",)
    assert set(Selection.of(None, ["norm"], everything=True).asked) >= {"norm", "perturbation", "margin"}


def test_only_the_keys_needed_and_those_of_named_measures_are_wanted():
    predictor = tiny_predictor()
    assert Selection.of(None, (), everything=False).wanted is None
    assert Selection.of(predictor, (), everything=True).wanted is None
    wanted = Selection.of(predictor, ["distance"], everything=False).wanted
    assert set(predictor.needs) <= wanted
    assert wanted - (Selection.of(predictor, (), everything=False).wanted or set())


def test_nothing_need_be_said_of_keys_that_the_preferred_predictor_alone_needs():
    default = load_predictor("default")
    selection, key = Selection.of(default, ["norm"], drawn=True), "copies/moved_accuracy"
    assert key in selection.wanted - selection.explained
    expected = {"norm/log_product_spectral", "margin/h1"}  # named, and drawn
    assert set(replace(default, preferred=None).needs) | expected <= selection.explained
    assert Selection.of(default, (), everything=True).explained is None


@dataclass
class Run:
    """A training whose epochs take a second, measured as `GapMonitor` does."""

    budget: Budget
    schedule: Schedule
    taken: dict[str, list[int]] = field(default_factory=dict)
    overheads: list[float] = field(default_factory=list)


def run(
    costs: Mapping[str, float],
    usual: float,
    epochs: int = 400,
    share: float | None = 0.05,
    declared: Mapping[str, float] | None = None,
    last: int | None = None,
) -> Run:
    """`costs` and `usual` are seconds; by default, a declared forward takes a twentieth of `usual`."""
    forwards = declared or {name: 20 * seconds / usual for name, seconds in costs.items()}
    done = Run(Budget(share), Schedule(dict(forwards), needed=20.0), taken={name: [] for name in costs})
    for epoch in range(epochs):
        step(done, epoch, costs, usual, ends=epoch == last)
    return done


def step(done: Run, epoch: int, costs: Mapping[str, float], usual: float, ends: bool = False) -> None:
    done.budget.train(1.0)
    first = epoch == 0
    chosen = () if first else done.schedule.others(done.budget, (), done.budget.price * 1000, ends)
    seconds = usual * (0.8 + 0.4 * (epoch % 2))
    done.budget.pay(seconds, 1000)
    done.budget.spent += seconds + sum(costs[name] for name in chosen)
    for name in chosen:
        done.schedule.record(name, epoch, costs[name], succeeded=True)
        done.taken[name].append(epoch)
    done.overheads.append(done.budget.overhead)


CASES = {
    "room for all": ({"a": 0.004, "b": 0.006}, 0.002),
    "room for one at a time": ({"a": 0.2, "b": 0.3, "c": 0.5}, 0.02),
    "very unequal": ({"a": 0.1, "b": 1.5}, 0.03),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_share_holds(case: str, share: float):
    costs, usual = CASES[case]
    done = run(costs, usual, share=share)
    # The slack is what one measurement, and the first of a measure, may take beyond what is expected.
    slack = 0.5 * usual + 0.25 * max(costs.values())
    assert all(overhead <= share + slack / (epoch + 1) for epoch, overhead in enumerate(done.overheads))
    assert done.overheads[-1] > 0.7 * min(share, usual + sum(costs.values()))
    assert all(len(epochs) >= 2 for epochs in done.taken.values())


def test_where_the_prediction_takes_more_than_the_budget_nothing_is_left():
    done = run({"a": 0.2, "b": 0.3}, usual=0.08)
    assert done.taken == {"a": [], "b": []}
    assert done.schedule.untried() == ["a", "b"]


def test_where_there_is_plenty_every_measure_is_taken_in_every_epoch():
    done = run({"a": 0.002, "b": 0.002, "c": 0.002}, usual=0.002)
    assert all(epochs[-100:] == list(range(300, 400)) for epochs in done.taken.values())


def test_cheap_measures_ride_along_as_long_as_the_allowance_pays_for_them():
    schedule = Schedule({"a": EXPENSIVE, "b": 2 * EXPENSIVE, "c": 1.0, "d": 2.0}, needed=2.0)
    assert schedule.riders(100.0, usual=0.2) == ("a", "c", "d")
    assert schedule.riders(0.31, usual=0.2) == ("c", "d")  # a declared forward takes 0.1 s
    assert schedule.riders(0.1, usual=0.2) == ("c",)
    assert schedule.riders(-0.1, usual=0.2) == ()
    schedule.record("c", 0, 0.4, succeeded=True, rode=True)
    assert schedule.riders(0.31, usual=0.2) == ("d",)  # what it took is known now
    assert schedule.spent == {}
    plenty = Budget(0.05, trained=1e6)
    assert schedule.others(plenty, ("a", "d"), 0.2, last=False) == ("b", "c")


def test_each_has_an_equal_share_so_that_the_most_expensive_is_the_rarest():
    done = run({"a": 0.1, "b": 0.4}, usual=0.01)
    seconds = {name: cost * len(done.taken[name]) for name, cost in (("a", 0.1), ("b", 0.4))}
    assert seconds["a"] == pytest.approx(seconds["b"], abs=0.4)
    gaps = [after - before for before, after in zip(done.taken["b"], done.taken["b"][1:], strict=False)]
    assert max(gaps) <= 1.25 * min(gaps)


def test_measures_of_one_cost_alternate():
    done = run({"a": 0.2, "b": 0.2, "c": 0.2}, usual=0.01)
    epochs = [epoch for measure in done.taken.values() for epoch in measure]
    assert len(set(epochs)) == len(epochs)
    order = sorted((epoch, name) for name, measure in done.taken.items() for epoch in measure)
    names = [name for _, name in order]
    assert names == (["a", "b", "c"] * len(names))[: len(names)]


def test_one_that_is_never_affordable_keeps_nobody_waiting():
    done = run({"a": 0.1, "b": 1e6}, usual=0.01)
    assert done.taken["b"] == []
    assert len(done.taken["a"]) > 50
    assert done.schedule.untried() == ["b"]


def test_a_declared_cost_that_is_far_off_counts_until_the_first_measurement_only():
    costs = {"a": 0.1, "b": 0.1}
    modest = run(costs, 0.01, declared={"a": 200.0, "b": 4000.0})
    waited = modest.taken["b"][0]
    assert waited > 3 * modest.taken["a"][0]
    later = [sum(epoch > waited for epoch in modest.taken[name]) for name in costs]
    assert later[1] >= later[0]
    bold = run({"a": 1.0, "b": 0.1}, 0.01, declared={"a": 20.0, "b": 200.0})
    assert mean(bold.overheads[-10:]) <= 0.05
    assert len(bold.taken["a"]) <= 10


def test_the_last_epoch_takes_whatever_the_rest_of_the_budget_pays_for():
    costs = {"a": 0.5, "b": 0.6, "c": 1e6}
    for epochs in range(30, 60):
        done = run(costs, usual=0.01, epochs=epochs, last=epochs - 1)
        assert done.overheads[-1] <= 0.05 + 0.01 / epochs
        before = run(costs, usual=0.01, epochs=epochs - 1)
        left = 0.05 * epochs - before.budget.spent - 0.01
        assert (epochs - 1 in done.taken["a"] + done.taken["b"]) == (left >= 0.5)


def test_without_budget_all_are_taken_always():
    schedule = Schedule({"a": 1.0, "b": 100.0, "c": 50.0}, needed=2.0)
    assert set(schedule.others(Budget(None), (), 1.0, last=False)) == {"a", "b", "c"}
    assert schedule.riders(math.inf, 1.0) == ("a",)


@pytest.mark.parametrize("forwards", [1.0, 100.0])
def test_failures_in_a_row_switch_off_one_measure_alone(forwards: float):
    schedule, budget = Schedule({"a": forwards, "b": 1.0}, needed=2.0), Budget(None)
    for epoch in range(MOST_FAILURES - 1):
        schedule.record("a", epoch, 1.0, succeeded=False)
    schedule.record("a", 2, 1.0, succeeded=True)
    for epoch in range(MOST_FAILURES):
        assert set(schedule.others(budget, (), 0.1, last=False)) == {"a", "b"}
        schedule.record("a", 3 + epoch, 1.0, succeeded=False)
    assert schedule.others(budget, (), 0.1, last=True) == ("b",)


def test_what_failed_costs_but_does_not_tell_the_cost():
    schedule = Schedule({"a": 100.0}, needed=2.0)
    schedule.record("a", 0, 7.0, succeeded=False)
    assert schedule.spent == {"a": 7.0}
    assert schedule.costs == {}


def test_ages_are_of_expensive_measures_that_have_values():
    schedule = Schedule({"a": 100.0, "b": 100.0, "c": 1.0}, needed=2.0)
    schedule.record("a", 3, 1.0, succeeded=True)
    schedule.record("a", 5, 1.0, succeeded=False)
    schedule.record("b", 5, 1.0, succeeded=False)
    schedule.record("c", 5, 1.0, succeeded=True)
    assert schedule.ages(3) == {"a": 0.0}
    assert schedule.ages(7) == {"a": 4.0}


def test_state_continues_the_schedule():
    costs, usual = {"a": 0.2, "b": 0.3}, 0.02
    whole, half = run(costs, usual, epochs=80), run(costs, usual, epochs=40)
    again = Schedule(half.schedule.forwards, half.schedule.needed, **half.schedule.state())
    resumed = Run(Budget(0.05, **half.budget.state()), again, {"a": [], "b": []})
    for epoch in range(40, 80):
        step(resumed, epoch, costs, usual)
    assert {name: [epoch for epoch in epochs if epoch >= 40] for name, epochs in whole.taken.items()} == resumed.taken
    assert all(resumed.taken.values())


def test_state_of_measures_that_are_no_longer_asked_for_is_kept_as_spent():
    schedule = Schedule({"a": 100.0}, needed=2.0)
    schedule.record("a", 3, 4.0, succeeded=True)
    other = Schedule({"b": 100.0}, needed=2.0, **schedule.state())
    assert other.ages(5) == {}
    assert other.others(Budget(0.05, trained=100.0, spent=4.5), (), 0.005, last=False) == ("b",)
    assert other.others(Budget(0.05, trained=94.0, spent=4.5), (), 0.005, last=False) == ()


def test_a_measure_brings_what_it_reads():
    selection = Selection.of(None, ["agreement"])
    assert selection.measures == ("fit", "agreement", "reference")
    assert selection.once([]) == ([], ["reference"])
    assert selection.asked == ("agreement",)


def test_what_was_taken_once_leaves_its_share_to_the_others():
    schedule = Schedule({"once": 0.0, "dear": 30.0})
    schedule.record("once", 0, 30.0, succeeded=True, rode=True)
    budget = Budget(0.05, trained=100.0)
    assert schedule.others(budget, (), usual=0.1, last=False) == ()
    schedule.done = ("once",)
    assert schedule.riders(100.0, usual=0.1) == ()
    assert schedule.others(budget, (), usual=0.1, last=False) == ("dear",)
