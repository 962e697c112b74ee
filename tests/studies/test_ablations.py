import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ablations import groups, groups_section
from contests import Study
from learning_curve import curve_section, fitted_stage, learning_curve, stage_section
from measure_groups import groups_of
from single_measures import scarce_orders, scarce_section, singles, singles_section

from lightning_gengap.predictors.components import Memoriser
from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.evaluate.comparable import measures_of
from lightning_gengap.zoo.evaluate.held_out import hold_out
from lightning_gengap.zoo.evaluate.quick import hold_out_points
from tests.zoo.conftest import PLANTED, assessed_rows
from tests.zoo.tables import rows, table_of

TELLING, BLIND, DISTANCE = "sharpness/expected_0.01", "curvature/soft_rank", "distance/parameter_norm"


def unpadded(text: str) -> str:
    """Without the padding of table cells."""
    return " ".join(text.split())


def scarce_rows(tasks: int) -> list[dict[str, Any]]:
    """At the last snapshots of some tasks, one measure that holds all that the features lack, and one of noise."""
    rng = np.random.default_rng(5)
    made = rows(16, noise=0.3)
    for row in made:
        law = 0.1 - 0.03 * math.log(row["measure.train_loss"])
        law += 0.15 * (0.5 - row["measure.difficulty/ridge_accuracy"])
        law -= 0.02 * math.log(row["measure.train_samples"] / 1000)
        measured = row["epoch"] == 4 and int(row["task"][-2:]) < tasks
        row[f"measure.{TELLING}"] = row["gap.accuracy"] - law if measured else ""
        row[f"measure.{BLIND}"] = float(np.exp(rng.normal())) if measured else ""
        row["measure.distance/parameter_norm"] = float(np.exp(rng.normal())) if measured else ""
        row["measure.norm/log_sum_spectral"] = float(rng.normal())
        for key in [key for key in row if key.startswith("measure.margin/")]:
            del row[key]
    return made


def study_of(made: list[dict[str, Any]], specification: Specification = PLANTED) -> Study:
    return Study.of(table_of(made), specification, locked=True)


def orders_of(study: Study) -> dict[str, Any]:
    setting = study.setting
    held = hold_out(setting.table, setting.specification, study.split_of["by task"], setting.among)
    return scarce_orders(study, held)


def error_of(study: Study, specification: Specification) -> float:
    """In points, with one family left out after the other."""
    table, split = study.setting.table, study.split_of["leave one family out"]
    held, gap = hold_out_points(table, specification, split, study.setting.among)
    return float(100 * np.abs(gap - table.numbers("gap.accuracy")[held]).mean())


def cut(study: Study, folds: int) -> Study:
    return replace(study, split_of={name: part[:folds] for name, part in study.split_of.items()})


def test_a_scarce_group_is_compared_where_it_was_measured():
    study = study_of(scarce_rows(10))
    listed = groups(study)
    telling, blind = listed["added"]["sharpness"], listed["added"]["curvature"]
    assert (telling["rows"], telling["runs"], telling["tasks"], telling["families"]) == (80, 80, 10, 5)
    assert telling["scarce"]
    for split in ("by task", "leave one family out"):
        found, noise = telling["splits"][split], blind["splits"][split]
        assert found["rows"] == noise["rows"] == 80
        assert found["mae"]["planted + group"][0] < 0.3 * found["mae"]["planted"][0]
        assert found["mae gain"]["planted + group"][1] > 0  # clear of zero
        assert found["tau gain"]["planted + group"][1] > 0
        assert noise["mae gain"]["planted + group"][0] < 0.2
        assert noise["tau gain"]["planted + group"][1] < 0.1
        for kind, sign in (("mae", -1), ("tau", 1)):
            difference = sign * (found[kind]["planted + group"][0] - found[kind]["planted"][0])
            assert found[f"{kind} gain"]["planted + group"][0] == pytest.approx(difference, abs=2e-4)
    text = unpadded(groups_section(listed, "planted"))
    assert "| sharpness | 80 of 10 |" in text


def test_scarce_measures_of_a_group_are_a_group_of_their_own():
    study = study_of(scarce_rows(10))
    found = groups_of(study.setting.table, study.setting.among)
    assert [term.name for term in found["norms"].terms] == ["norm/log_sum_spectral"]
    assert [term.name for term in found["norms, scarce ones"].terms] == [DISTANCE]
    assert not found["norms"].scarce
    assert found["norms"].rows.sum() == 512


def test_measures_that_are_never_there_together_are_not_joined_and_beyond_three_parts_not_scored():
    made = scarce_rows(10)
    places = {1: "expected_0.001", 2: "expected_0.003", 3: "adaptive_0.05"}
    for row in made:
        for epoch, name in places.items():
            row[f"measure.sharpness/{name}"] = row["measure.train_loss"] if row["epoch"] == epoch else ""
    study = study_of(made)
    found = groups_of(study.setting.table, study.setting.among)
    parts = [found[name] for name in ("sharpness", "sharpness (2)", "sharpness (3)")]
    assert [len(part.terms) for part in parts] == [1, 1, 1]
    assert [part.rows.sum() for part in parts] == [128, 128, 128]
    assert [part.dropped for part in parts] == [(), (), (TELLING,)]  # on 80 rows: the least frequent
    assert "sharpness (4)" not in found


@pytest.mark.parametrize("tasks", [4, 0])
def test_too_few_tasks_are_said_and_an_absent_group_is_no_failure(tasks: int):
    study = study_of(scarce_rows(tasks))
    listed = groups(study)
    text = unpadded(groups_section(listed, "planted"))
    if tasks:
        assert listed["added"]["sharpness"]["splits"]["by task"] == {"too few": "tasks", "count": 4}
        assert "| sharpness | too few tasks (4) |" in text
    else:
        assert {"sharpness", "curvature", "margins"} <= set(listed["absent"])
        assert "Not measured in these rows: margins, sharpness" in text
    orders = orders_of(study)
    assert orders == ({TELLING: {"rows": 32, "tasks": 4}} | orders if tasks else {})
    assert (f"Too few tasks (4): {DISTANCE}, {TELLING}, {BLIND}" in scarce_section(orders, "planted")) == bool(tasks)


def test_taking_a_group_leaves_the_given_train_accuracy_and_takes_the_others():
    terms = [
        Term("train_accuracy", "identity"),
        Term("train_loss", "log"),
        Term("difficulty/ridge_accuracy", "identity"),
    ]
    specification = Specification("of test", tuple(terms), test_accuracy=True)
    study = study_of(scarce_rows(0), specification)
    study = cut(study, 2)
    added = groups(study)["added"]
    listed = {name: group["splits"]["leave one family out"].get("mae", {}) for name, group in added.items()}
    left = replace(specification, features=(terms[0], terms[2]))
    assert listed["train metrics"]["of test - group"][0] == pytest.approx(error_of(study, left), abs=1e-3)
    assert "of test - group" not in listed["norms"]


def test_a_memoriser_is_taken_with_its_group_alone():
    terms = (
        Term("train_accuracy", "identity"),
        Term("train_loss", "log"),
        Term("difficulty/ridge_accuracy", "identity"),
        Term("difficulty/neighbour_1_accuracy", "identity"),
    )
    made = scarce_rows(0)
    for row in made:
        row["measure.difficulty/neighbour_1_accuracy"] = row["measure.train_accuracy"] - 0.03
    with_it = Specification("of test", terms, test_accuracy=True, components=(Memoriser(terms[3].name, 0.1),))
    study = study_of(made, with_it)
    study = cut(study, 2)
    added = groups(study)["added"]
    for group, left in (
        ("difficulty", replace(with_it, features=terms[:2], components=())),
        ("train metrics", replace(with_it, features=(terms[0], *terms[2:]))),
    ):
        listed = added[group]["splits"]["leave one family out"]["mae"]["of test - group"][0]
        assert listed == pytest.approx(error_of(study, left), abs=1e-3)


def test_scarce_measures_rank_last_snapshots_within_tasks():
    study = study_of(scarce_rows(10))
    orders = orders_of(study)
    assert set(orders) == {TELLING, BLIND, DISTANCE}
    telling = orders[TELLING]
    assert (telling["rows"], telling["tasks"]) == (80, 10)
    assert telling["gap"]["tau"][1] > 0.2
    assert telling["test"]["tau"][2] < -0.2  # more of it, more gap, less test accuracy
    assert abs(orders[BLIND]["gap"]["tau"][0]) < 0.2
    assert telling["gap"]["size over train loss"][0] > orders[BLIND]["gap"]["size over train loss"][0]
    assert f"| {TELLING} | 80 | 10 |" in unpadded(scarce_section(orders, "planted"))


def test_a_measure_of_noise_ranks_neither_way_rather_than_wrongly():
    made = scarce_rows(16)
    study = study_of(made)
    blind = orders_of(study)[BLIND]
    for target in ("gap", "test"):
        _, low, high = blind[target]["tau"]
        assert low < 0 < high
    row = singles(cut(study, 1))[BLIND]
    _, low, high = row["tau"]["along training"]
    assert low < 0 < high


@pytest.fixture(scope="module")
def assessed() -> Study:
    """The planted specification on the rows of the assessment, one measure of noise and one missing in half of them."""
    return study_of(assessed_rows())


def test_every_single_measure_is_scored_on_the_rows_that_have_it(assessed: Study):
    found = singles(assessed)
    assert set(found) == set(measures_of(assessed.setting.table, assessed.setting.among))
    assert found["path_norm/log"]["rows"] < 0.6 * found["norm/log_sum_spectral"]["rows"]
    skills = {key: result["splits"]["by task"]["skill"][0] for key, result in found.items()}
    best = max(skills, key=lambda key: skills[key])
    assert best.startswith("difficulty/")  # the only measures that the trivial features lack and the law contains
    assert skills["norm/log_sum_spectral"] < 0.05
    assert found["train_loss"]["tau"]["along training"][0] > 0.5
    assert abs(found["norm/log_sum_spectral"]["tau"]["along training"][0]) < 0.2
    assert f"| path_norm/log | {found['path_norm/log']['rows']} |" in unpadded(singles_section(found))


def test_groups_are_added_and_taken_on_common_rows(assessed: Study):
    found = groups(assessed)
    norms = found["added"]["norms"]
    assert norms["keys"] == ["norm/log_sum_spectral"]  # not the one that is missing twice as often
    assert found["added"]["norms (2)"]["keys"] == ["path_norm/log"]
    assert norms["rows"] == 2 * found["added"]["norms (2)"]["rows"]
    assert set(found["added"]) == {"margins", "norms", "norms (2)", "difficulty", "train metrics"}
    assert set(found["absent"]) == {"sharpness", "curvature", "leave-one-out", "perturbation", "class structure"}
    gains = {name: g["splits"]["by task"]["mae gain"]["trivial + group"] for name, g in found["added"].items()}
    assert gains["difficulty"][1] > 0
    assert gains["norms"][1] <= 0.2
    taken = found["taken"]["splits"]["by task"]
    assert taken["all - difficulty"]["mae"][0] > taken["all"]["mae"][0]


def test_learning_curve_falls_and_ends_at_all_runs(assessed: Study):
    found, runs = learning_curve(assessed), str(assessed.setting.table.count("run", assessed.setting.among))
    curve = found["by task, runs drawn"]
    assert list(curve)[-1] == runs
    assert curve["50"]["mae"][0] > curve[runs]["mae"][0]
    assert curve["50"]["between draws"][1] > curve["50"]["between draws"][0]
    assert f"| {runs} | {curve[runs]['rows']} |" in unpadded(curve_section(found))
    assert "last snapshots, fitted on all" in stage_section(fitted_stage(assessed))
