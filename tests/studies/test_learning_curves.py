from __future__ import annotations

import pytest
from learning_curves import HELD, Case, chosen, line, mean_of, scores, with_held_out

from lightning_gengap.learning_curves.curve import LearningCurve
from lightning_gengap.learning_curves.part import Part
from lightning_gengap.learning_curves.power_law import Estimate


def test_a_straight_line_goes_through_the_last_two_errors() -> None:
    parts = [Part(n, 1000, 1.0, accuracy, (1,), (1.0,), (accuracy,), 0.0) for n, accuracy in ((50, 0.1), (100, 0.6))]
    parts.append(Part(400, 1000, 1.0, 0.8, (1,), (1.0,), (0.8,), 0.0))
    curve = LearningCurve(tuple(parts), 800, 0.1, origin=None)  # type: ignore[arg-type]
    assert line(curve, 1600).accuracy == pytest.approx(0.9)


def test_scores_are_in_points() -> None:
    pairs = [(Estimate(0.80, 0.02, 0.77, 0.83), 0.81), (Estimate(0.80, 0.02, 0.77, 0.83), 0.75)]
    assert scores(pairs) == "3.0 | 3.0 | 5.0 | 0.50 | 0.50"


def test_the_more_certain_estimate_counts_more() -> None:
    mean = mean_of(Estimate(0.8, 0.03, 0.0, 1.0), Estimate(0.7, 0.015, 0.0, 1.0))
    assert mean.accuracy == pytest.approx(0.72)
    assert mean.deviation == pytest.approx((0.03**-2 + 0.015**-2) ** -0.5)


def test_recipes_are_those_of_the_table_a_run_of_each_task_first() -> None:
    recipes = [recipe for recipe, _ in chosen("tables", 8)]
    assert len({recipe.task for recipe in recipes}) == len({recipe.key for recipe in recipes}) == 8
    assert all(800 <= recipe.task.train_samples <= 4000 for recipe in recipes)


def test_held_out_samples_and_the_curve_take_the_error_down() -> None:
    parts = [Part(n, 1000, 1.0, accuracy, (1,), (1.0,), (accuracy,), 0.0) for n, accuracy in ((100, 0.7), (200, 0.75))]
    curve = LearningCurve(tuple(parts), 800, 0.1, origin=None)  # type: ignore[arg-type]
    cases = [Case("tables", recipe, curve, curve, 1.0, 0.8, 2000.0) for recipe, _ in chosen("tables", 2)]
    off = {case.recipe.key: Estimate(0.7, 0.05, 0.0, 1.0) for case in cases}
    table = with_held_out(cases, off, draws=20).splitlines()[2:]
    groups = sorted({case.group for case in cases})
    assert groups[0].startswith("tables, ")
    assert [line.split(" (")[0] for line in table[::2]] == [*(f"| {group}" for group in groups), "| all"]
    alone, joined = ([float(cell) for cell in line.strip(" |").split(" | ")[2:]] for line in table[-2:])
    assert len(alone) == len(joined) == len(HELD)
    assert alone[0] == pytest.approx(10.0)
    assert joined[0] < alone[0]
    assert alone[-1] < alone[1] < alone[0]
