import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lightning_gengap.zoo.evaluate.held_out import hold_out
from lightning_gengap.zoo.evaluate.one_family import moved, over_runs, scored_by_run
from lightning_gengap.zoo.fit.fit import fit, usable
from lightning_gengap.zoo.report.one_family_card import one_family_card
from lightning_gengap.zoo.splits import by_run
from lightning_gengap.zoo.table import Table
from tests.zoo.conftest import PLANTED
from tests.zoo.tables import rows, table_of

GROUP = replace(PLANTED, name="group", grid="mine", loss_head="")


def grid_table(wrong: str = "", noise: float = 0.0) -> Table:
    """Five tasks of a grid, with three planted linear terms; the ridge accuracy of one run may be wrong."""
    made: list[dict[str, Any]] = rows(12, seed=3)
    names = sorted({row["task"] for row in made})
    rng = np.random.default_rng(2)
    for row in made:
        run = int(row["run"][-1])
        row |= {"recipe.grid": "mine_a" if row["task"] in names[:5] else "other", "recipe.family": "cnn"}
        row |= {"recipe.depth": run % 2, "recipe.width": 8 * (run // 2), "recipe.seed": 0}
        gap = 0.4 - 0.05 * math.log(row["measure.train_loss"]) - 0.5 * row["measure.difficulty/ridge_accuracy"]
        row["gap.accuracy"] = gap + noise * rng.normal()
        row["gap.test_accuracy"] = row["measure.train_accuracy"] - row["gap.accuracy"]
        if row["run"] == wrong:
            row["measure.difficulty/ridge_accuracy"] += 0.2
    return table_of(made)


def test_a_group_is_fitted_on_its_grids_alone_and_scored_by_run():
    table = grid_table()
    own = set(table.words("task")[usable(table, GROUP)])
    assert len(own) == 5
    fitted = fit(table, GROUP)
    assert fitted.provenance["tasks"] == 5
    scored = scored_by_run(table, GROUP)[0]
    assert scored["runs"] == 40
    error, constant = (scored["by run"][name]["all snapshots"]["mae"] for name in ("group", "constant"))
    assert error[2] < 0.5 < constant[1]


def test_scores_are_those_of_predictions_held_out_by_run_with_an_interval_that_holds_them():
    table = grid_table(noise=0.02)
    scored = scored_by_run(table, GROUP)[0]["by run"]["group"]
    held = hold_out(table, GROUP, by_run(table), usable(table, GROUP))
    actual = table.numbers("gap.accuracy")[held.rows]
    error = held.gap - actual
    plain = {
        "mae": 100 * np.abs(error).mean(),
        "signed": 100 * error.mean(),
        "r2": 1 - (error**2).sum() / ((actual - actual.mean()) ** 2).sum(),
    }
    for name, value in plain.items():
        middle, low, high = scored["all snapshots"][name]
        assert middle == pytest.approx(value, abs=1e-4)
        assert low < middle < high
    inside = (actual >= held.lower) & (actual <= held.upper)
    assert scored["coverage"]["all snapshots"][0] == pytest.approx(inside.mean(), abs=1e-4)
    assert scored["width"]["all snapshots"][0] == pytest.approx(100 * (held.upper - held.lower).mean(), abs=1e-3)
    assert 1 <= scored["converged"]["rows"] < 40  # some of the last snapshots lie below 0.97


def test_draws_hold_as_many_runs_as_there_are_and_none_of_another_grid():
    table = grid_table()
    among = usable(table, GROUP)
    draws = over_runs(table, among)
    own = np.isin(np.unique(table.words("run")), table.words("run")[among])
    assert (draws.weights.sum(axis=1) == 40).all()
    assert draws.weights[:, ~own].sum() == 0
    assert draws.weights[:, own].std() == pytest.approx(1, abs=0.05)  # of a binomial count with mean one


def test_contributions_are_mean_absolute_terms_of_the_prediction():
    table = grid_table()
    among = usable(table, GROUP)
    predictor = fit(table, GROUP)
    points_of = moved(table, predictor, among)
    terms = []
    for row in np.flatnonzero(among):
        values = {
            name: float(table.numbers(f"measure.{name}")[row]) for name in ("train_accuracy", "classes", *points_of)
        }
        terms.append(predictor.predict(values).contributions)
    for name, points in points_of.items():
        assert points == pytest.approx(100 * np.mean([abs(term[name]) for term in terms]), abs=1e-3)


def test_the_card_names_the_wrong_run_by_its_hyperparameters_and_what_misled():
    table = grid_table(wrong="02-5", noise=0.005)
    predictor = replace(fit(table, GROUP), scores=scored_by_run(table, GROUP)[0])
    worst = predictor.scores["worst runs"]
    assert len(worst) == 3
    assert worst[0]["run"] == "02-5"
    assert worst[0]["hyperparameters"] | {"depth": "1", "width": "16"} == worst[0]["hyperparameters"]
    assert worst[0]["error"] > 2 * worst[1]["error"]
    text = " ".join(one_family_card(predictor).split())
    assert "`mine_a` (" in text
    assert "depth 1" in text
    samples = table.numbers("measure.train_samples")[usable(table, GROUP)]
    assert f"({samples.min():,.0f} to {samples.max():,.0f} training images)" in text
    assert "Nothing is known of other tasks" in text
    for feature in predictor.features:
        assert f"| {feature.name} | {feature.transform} |" in text
    low, high = predictor.scores["by run"]["group"]["converged"]["r2"][1:]
    assert f"[{low:.3f}, {high:.3f}]" in text
