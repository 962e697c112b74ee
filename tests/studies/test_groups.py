"""The study of groups: which runs turn, what a rule loses on the other half of the test, a line for each penalty."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from groups import PENALTIES, choices, highest, last, last_unless, lost, runs_of, tried

from lightning_gengap.predictors.specification import Group, Specification, Term
from lightning_gengap.zoo.table import Table
from tests.zoo.tables import rows, table_of

FEATURES = (Term("train_loss", "log"), Term("train_samples", "log"), Term("difficulty/ridge_accuracy"))
MARGINS = Group("margins", (Term("margin/h1/median", "log", floor=1e-6),), None)
SPECIFICATION = Specification("planted", FEATURES, groups=(MARGINS,), strength=1e-3)


def planted(coefficient: float = -0.02) -> Table:
    """Six epochs a run: every other run rises to 0.7 and falls to 0.6, the others rise. A margin tells a part."""
    made = [row | {"epoch": row["epoch"] + shift} for row in rows(24) for shift in (0, 4) if row["epoch"] + shift < 7]
    for row in made:
        falls = int(row["run"].partition("-")[2]) % 2
        epoch = row["epoch"]
        test = 0.55 + 0.05 * epoch if epoch <= 3 or not falls else 0.7 - 0.1 * (epoch - 3) / 3
        test = min(test, 0.7) + coefficient * math.log(row["measure.margin/h1/median"])
        row["gap.test_accuracy"], row["gap.accuracy"] = test, row["measure.train_accuracy"] - test
        row["gap.test_accuracy_first_half"], row["gap.test_accuracy_second_half"] = test, test + 0.01
    return table_of(made)


def test_rules_keep_the_epoch_that_they_name() -> None:
    said = np.array([0.5, 0.61, 0.6])
    assert [highest(said), last(said), last_unless(0.005)(said), last_unless(0.02)(said)] == [1, 2, 1, 2]


def test_points_are_lost_against_the_best_epoch_of_the_other_half() -> None:
    table = planted()
    runs = runs_of(table, np.arange(len(table)))
    assert {len(run.rows) for run in runs} == {6}
    test, second = table.numbers("gap.test_accuracy"), table.numbers("gap.test_accuracy_second_half")
    assert all(run.turns == (test[run.rows].max() - test[run.rows[-1]] >= 0.015) for run in runs)
    points = lost(table, runs, test, highest)
    assert points[True] == pytest.approx([0.0] * len(points[True]), abs=1e-9)
    by_last = lost(table, runs, test, last)[True]
    expected = [100 * (second[run.rows].max() - second[run.rows[-1]]) for run in runs if run.turns]
    assert by_last == pytest.approx(expected)


def test_every_penalty_has_a_line_and_what_tells_takes_the_error_down() -> None:
    lines = tried(planted(-0.1), SPECIFICATION, MARGINS)
    assert [line[1] for line in lines] == ["infinite", "100", "10", "1"]
    errors = [float(line[4]) for line in lines]
    assert errors[-1] < errors[0]
    assert len(lines) == len(PENALTIES)


def test_every_rule_has_a_line() -> None:
    lines = choices(planted(), replace(SPECIFICATION, groups=()))
    assert [line[0] for line in lines][:3] == ["runs", "last epoch", "highest prediction"]
    assert float(dict((line[0], line[1]) for line in lines)["last epoch"]) > 1.5
