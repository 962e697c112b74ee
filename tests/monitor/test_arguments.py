"""What a monitor's arguments may be, and which measures they ask for."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_gengap import GapError, GapMonitor
from lightning_gengap.errors import ConfigurationError, MeasureError, PredictorError
from lightning_gengap.measures import BY_DEFAULT, get_measure
from lightning_gengap.monitor.arguments import select
from tests.tiny_predictors import tiny_monitor, tiny_predictor


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"predictor": "no_such"}, PredictorError, "predictor: got 'no_such'; expected one of .*gengap predictors"),
        ({"predictor": 3}, ConfigurationError, r"GapMonitor\(predictor=\): got 3; expected a name, a path,"),
        ({"measures": ["mergin"]}, MeasureError, "measure: got 'mergin'; expected one of margin, fit, norm"),
        (
            {"measures": "norm"},
            ConfigurationError,
            r"GapMonitor\(measures=\): got 'norm'; expected a sequence of names",
        ),
        ({"every_n_epochs": 0}, ConfigurationError, r"GapMonitor\(every_n_epochs=\): got 0; expected at least 1"),
        ({"samples": 5}, ConfigurationError, r"GapMonitor\(samples=\): got 5; expected at least 20"),
        ({"budget": 0}, ConfigurationError, r"GapMonitor\(budget=\): got 0; expected a share in \(0, 1\], or None"),
        ({"budget": 5}, ConfigurationError, "budget"),
        ({"verbosity": "loud"}, ConfigurationError, "got 'loud'; expected 'quiet', 'normal' or 'full'"),
        ({"on_error": "ignore"}, ConfigurationError, "got 'ignore'; expected 'warn' or 'raise'"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(arguments: dict[str, Any], error: type[GapError], message: str):
    with pytest.raises(error, match=message):
        tiny_monitor(**arguments)


def test_the_measures_a_predictor_needs_are_taken():
    assert tiny_monitor().measures == ("margin", "fit", "difficulty")
    assert tiny_monitor(measures=["norm"]).measures == ("margin", "fit", "difficulty", "norm")
    assert set(tiny_monitor(verbosity="full").measures) == set(BY_DEFAULT)
    assert GapMonitor(predictor=None).measures == ("margin", "fit")


def test_measures_taken_once_are_those_not_taken_yet_needed_ones_apart():
    selection = select(tiny_predictor(), ["input_difficulty", "norm"], every=False)
    assert selection.needed == ("margin", "fit", "difficulty")
    assert selection.once([]) == (["difficulty"], ["input_difficulty"])
    assert selection.once(["difficulty"]) == ([], ["input_difficulty"])


def test_what_is_taken_once_costs_the_schedule_nothing_and_dear_measures_are_counted_apart():
    schedule = select(tiny_predictor(), ["input_difficulty", "norm", "hessian"], every=False).schedule()
    forwards = {name: get_measure(name).forwards for name in ("margin", "fit", "norm", "hessian")}
    assert schedule.forwards == {"input_difficulty": 0.0, "norm": forwards["norm"], "hessian": forwards["hessian"]}
    assert schedule.others == forwards["margin"] + forwards["fit"] + forwards["norm"]
    assert schedule.dear == ["hessian"]


def test_only_the_keys_needed_and_those_of_named_measures_are_wanted():
    predictor = tiny_predictor()
    assert select(None, (), every=False).wanted is None
    assert select(predictor, (), every=True).wanted is None
    wanted = select(predictor, ["distance"], every=False).wanted
    assert wanted is not None
    assert set(predictor.needs) <= wanted
    assert wanted - (select(predictor, (), every=False).wanted or set())
