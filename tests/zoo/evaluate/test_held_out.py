import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_gengap.errors import PredictorError, TableError
from lightning_gengap.predictors.predictor import Memoriser
from lightning_gengap.zoo.evaluate.ablation import forms, measures_of, term_of
from lightning_gengap.zoo.evaluate.bootstrap import Resampling, bootstrap
from lightning_gengap.zoo.evaluate.grids import axes_of, grids
from lightning_gengap.zoo.evaluate.held_out import Setting, hold_out, hold_out_all, locked_scores
from lightning_gengap.zoo.evaluate.regressors import (
    balanced_ridge,
    boosted,
    design,
    hold_out_points,
    neural,
    predicted_points,
    ridge,
)
from lightning_gengap.zoo.evaluate.scores import Assessment, specification_of
from lightning_gengap.zoo.evaluate.splits import by_run, by_task, development, fold_of, locked_parts, splits
from lightning_gengap.zoo.fit.fit import BALANCED_STRENGTHS, fit, predicted
from lightning_gengap.zoo.fit.loss_head import fit_loss_head
from lightning_gengap.zoo.fit.specifications import DEFAULT, DEFAULT_3, IMAGES_2, Specification, Term
from lightning_gengap.zoo.table import read, write
from tests.zoo.conftest import PLANTED
from tests.zoo.tables import rows, table


def test_planted_specification_beats_its_baselines_on_every_split(assessment: Assessment):
    report = assessment.report
    by_task = report["splits"]["by task"]
    assert by_task["mae"]["planted"][0] < by_task["mae"]["trivial"][0] < by_task["mae"]["constant"][0]
    assert by_task["skill"][0] == pytest.approx(
        1 - by_task["mae"]["planted"][0] / by_task["mae"]["trivial"][0], abs=1e-3
    )
    assert by_task["r2"]["planted"][0] > by_task["r2"]["trivial"][0] > by_task["r2"]["constant"][0]
    assert set(report["splits"]["leave one family out"]["groups"]) == {"cnn", "vgg", "resnet", "mlp", "vit"}
    assert all("at least 20 runs in 5 tasks" in next(iter(p["skipped"].values())) for p in report["locked"].values())
    assert report["left_out"] == ["Jiang's 20 margin features"]  # of which there is one
    for name, low, high in ((n, *score[1:]) for n, score in by_task["mae"].items()):
        assert low < by_task["mae"][name][0] < high


def test_planted_specification_ranks_within_tasks_and_chooses_within_runs(assessment: Assessment):
    along = assessment.report["ranking"]["along training"]
    assert along["tau"]["planted"][0] > 0.8 > along["tau"]["train accuracy"][0]
    assert along["over trivial"]["planted"][1] > 0  # clear of zero
    assert along["tasks"] == 10
    assert assessment.report["turn"]["runs"] == 0  # four snapshots are too few


def test_nothing_of_the_locked_part_is_used_unless_asked_for(tmp_path: Path):
    made = table(tmp_path)
    assert not (Setting.of(made, PLANTED, locked=False).among & ~development(made)).any()
    assert (Setting.of(made, PLANTED, locked=True).among & ~development(made)).any()


def test_locked_parts_are_scored_by_fits_to_the_development_part(tmp_path: Path):
    setting = Setting.of(table(tmp_path), PLANTED, locked=True)
    listed, predictions = locked_scores(replace(setting, contenders=setting.contenders[:3]))
    assert set(predictions) == set(listed)
    assert set(listed) == {"tasks", "source fashion_mnist", "family vit"}
    for name, part in locked_parts(setting.table).items():
        assert listed[name]["rows"] == part.sum()
        assert listed[name]["mae"]["planted"][0] < listed[name]["mae"]["trivial"][0]


def test_a_baseline_that_is_missing_in_most_rows_is_left_out_and_said(tmp_path: Path):
    made = rows()
    for row in made[: 2 * len(made) // 3]:
        row["measure.margin/h2/median"] = ""
    write(made, tmp_path / "t.csv.gz")
    setting = Setting.of(read(tmp_path / "t.csv.gz"), PLANTED, locked=True)
    assert setting.left_out == ("Jiang's 20 margin features",)
    assert setting.among.all()
    absent = Specification("absent", (Term("path_norm/log", "identity"),))
    with pytest.raises(TableError, match="no row with all features of absent"):
        Setting.of(read(tmp_path / "t.csv.gz"), absent, locked=True)


def test_a_fold_that_cannot_be_fitted_is_skipped_by_all_with_the_reason(tmp_path: Path):
    made = table(tmp_path, tasks=8)
    few = np.isin(made.words("task"), ["task00", "task01"])
    setting = Setting.of(made, PLANTED, locked=True)
    held, skipped = hold_out_all(setting, [("few", few, ~few), ("many", ~few, few)])
    assert list(skipped) == ["few"]
    assert "at least 20 runs in 5 tasks" in skipped["few"]
    assert all((h.rows == np.flatnonzero(few)).all() for h in held.values())


@pytest.mark.parametrize("memoriser", ["", "difficulty/neighbour_1_accuracy"])
@pytest.mark.parametrize("form", ["additive", "product_of_powers"])
def test_predictions_by_column_equal_predict_row_by_row_exactly(tmp_path: Path, form: str, memoriser: str):
    made = rows(8, noise=0.3)
    rng = np.random.default_rng(0)
    for row in made:
        row["measure.train_loss"] *= 3 ** rng.normal()  # some far outside the fitted range
        row["measure.train_accuracy"] = rng.uniform(0.5, 1)
        row["measure.difficulty/ridge_accuracy"] = "" if rng.random() < 0.1 else rng.uniform(0, 1)
        row["gap.test_accuracy"] = max(row["measure.train_accuracy"] - row["gap.accuracy"], 0.0)
        row["measure.difficulty/neighbour_1_accuracy"] = "" if rng.random() < 0.1 else rng.uniform(0, 1)
    write(made, tmp_path / "t.csv.gz")
    new = read(tmp_path / "t.csv.gz")
    (tmp_path / "old").mkdir()
    features = (*PLANTED.features[:2], Term("difficulty/ridge_accuracy", "logit"))
    predictor = fit(table(tmp_path / "old", noise=0.1), replace(PLANTED, features=features, form=form))
    predictor = replace(predictor, memoriser=Memoriser(memoriser, 0.1) if memoriser else None)
    gap, lower, upper, abstained = predicted(predictor, new, np.ones(len(new), bool))
    names = dict.fromkeys(("train_accuracy", "classes", *predictor.needs))
    bounded = 0
    for place in range(len(new)):
        cells = {name: float(new.numbers(f"measure.{name}")[place]) for name in names}
        one = predictor.predict({name: cell for name, cell in cells.items() if math.isfinite(cell)})
        assert (gap[place], lower[place], upper[place], abstained[place]) == (
            *(one.gap, one.lower, one.upper),
            one.abstained,
        )
        bounded += one.contributions.get("memoriser", 0) < 0
    assert 0.1 < abstained.mean() < 0.9
    assert (bounded > 20) == bool(memoriser)


@pytest.mark.parametrize("memoriser", ["", "train_accuracy"])
@pytest.mark.parametrize("balanced", [False, True])
def test_fast_ridge_equals_the_shipped_fit_inside_the_support(tmp_path: Path, balanced: bool, memoriser: str):
    made = table(tmp_path, noise=0.1)
    split, planted = list(by_task(made)), replace(PLANTED, balanced=balanced, memoriser=memoriser)
    among = np.ones(len(made), bool)
    exact, fast = hold_out(made, planted, split, among), hold_out_points(made, planted, split, among)
    assert (exact.rows == fast.rows).all()
    kept = ~exact.abstained
    assert kept.mean() > 0.9
    assert np.abs(exact.gap - fast.gap)[kept].mean() < 2e-3  # values beyond the range are limited, not extrapolated


def test_balanced_ridge_is_weighted_least_squares_with_the_penalty_of_the_fit(tmp_path: Path):
    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=(60, 2)), rng.normal(size=60), rng.uniform(0.1, 2, 60)
    weights /= weights.mean()
    same = np.zeros(60, np.int64)  # one fold: nothing to choose by, so the first strength
    asked = rng.normal(size=(5, 2))
    columns = np.column_stack([np.ones(60), x])
    penalty = np.diag([0, 1, 1]) * BALANCED_STRENGTHS[0] * 60
    solution = np.linalg.solve(columns.T @ (columns * weights[:, None]) + penalty, columns.T @ (weights * y))
    predicted = balanced_ridge(x, y, same, same, weights)(asked)
    assert predicted == pytest.approx(solution[0] + asked @ solution[1:], abs=1e-12)


def test_values_beyond_the_fitted_range_count_as_one_deviation_beyond_but_for_the_train_size(tmp_path: Path):
    made = table(tmp_path)
    loss, size = made.numbers("measure.train_loss"), made.numbers("measure.train_samples")
    fitted = (loss > 0.2) & (size < 1500)
    terms = (Term("train_loss", "log"), Term("train_samples", "log"))
    known, asked = design(made, terms, fitted, ~fitted)
    assert asked[:, 0].min() == pytest.approx(known[:, 0].min() - 1)
    assert asked[:, 1].max() > known[:, 1].max() + 0.5


@pytest.mark.parametrize("regressor", [ridge, boosted, neural])
def test_regressors_recover_a_linear_law_and_only_ridge_misses_a_step(regressor):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    x, asked = rng.normal(size=(250, 2)), rng.normal(size=(200, 2))
    folds = fold_of(np.arange(250).astype(str))
    linear = regressor(x, x[:, 0], folds)(asked)
    assert np.abs(linear - asked[:, 0]).mean() < 0.2
    step = regressor(x, np.abs(x[:, 0]), folds)(asked)
    assert (np.abs(step - np.abs(asked[:, 0])).mean() > 0.3) == (regressor is ridge)


def test_rows_of_a_run_fall_in_one_fold_as_in_the_protocol(tmp_path: Path):
    made = table(tmp_path, tasks=4)
    folds = fold_of(made.words("run"))
    for number, (_, _, held) in enumerate(by_run(made)):
        assert (folds[held] == number).all()


def test_constant_feature_is_ignored_rather_than_refused(tmp_path: Path):
    made = [row | {"measure.train_samples": 500.0} for row in rows(8)]
    write(made, tmp_path / "t.csv.gz")
    same, half = read(tmp_path / "t.csv.gz"), np.arange(len(made)) % 2 == 0
    assert np.isfinite(predicted_points(same, PLANTED, half, ~half)).all()


def test_bootstrap_resamples_groups_not_rows():
    groups = np.repeat(np.arange(10), 100)
    values = np.repeat(np.random.default_rng(0).normal(size=10), 100)
    mean, low, high = bootstrap(values, groups) or (0.0, 0.0, 0.0)
    assert mean == pytest.approx(values.mean(), abs=1e-3)
    assert high - low > 0.5  # ten groups; a bootstrap over 1,000 rows would give about 0.1
    assert bootstrap(np.zeros(0), np.zeros(0)) is None


def test_resampling_draws_tasks_then_runs_and_pairs_contenders(tmp_path: Path):
    made = table(tmp_path, tasks=12)
    draws = Resampling.of(made)
    assert (draws.weights.sum(axis=1) == 96).all()
    by_task = draws.weights.reshape(1000, 12, 8).sum(axis=2)
    assert set(np.unique(by_task)) <= {8.0 * times for times in range(13)}  # whole tasks, each as large as it was
    assert (draws.weights.reshape(1000, 12, 8).std(axis=2) > 0).any()  # and runs within them
    every = np.arange(len(made))
    values = np.random.default_rng(0).normal(size=len(made))
    one, other = draws.mean(values, every), draws.mean(values + 1, every)
    assert other.minus(one).listed() == [1.0, 1.0, 1.0]


def test_interval_of_a_mean_has_the_width_that_theory_gives(tmp_path: Path):
    made = table(tmp_path, tasks=48)
    rng = np.random.default_rng(0)
    task = np.unique(made.words("task"), return_inverse=True)[1]
    values = rng.normal(size=48)[task] + rng.normal(size=len(made))
    _, low, high = Resampling.of(made).mean(values, np.arange(len(made))).listed() or (0, 0, 0)
    assert (high - low) / (2 * 1.96 * math.sqrt(1 / 48)) == pytest.approx(1, abs=0.25)


def test_resampled_r2_and_skill_are_those_of_the_rows(tmp_path: Path):
    made = table(tmp_path, tasks=6)
    draws, every = Resampling.of(made), np.arange(len(made))
    actual = made.numbers("gap.accuracy")
    guess = actual + np.random.default_rng(0).normal(size=len(made)) * 0.05
    one = np.random.default_rng(1).integers(len(draws.weights))
    times = np.repeat(every, draws.weights[one][draws.run_of_row].astype(int))
    r2 = draws.r2(guess, actual, every)
    spread = ((actual[times] - actual[times].mean()) ** 2).sum()
    assert r2.draws[one] == pytest.approx(1 - ((actual - guess)[times] ** 2).sum() / spread)
    skill = draws.skill(np.abs(actual - guess), np.abs(actual), every)
    assert skill.draws[one] == pytest.approx(1 - np.abs(actual - guess)[times].sum() / np.abs(actual)[times].sum())
    assert draws.r2(guess[:0], actual[:0], every[:0]).listed() is None


def test_planted_form_is_found_to_be_the_better_reading(assessment: Assessment):
    by_task = assessment.report["forms"]["splits"]["by task"]
    assert by_task["planted, product of powers"]["gain"] == [0.0, 0.0, 0.0]
    assert by_task["planted, additive"]["gain"][2] < 0  # worse, clear of zero


def test_product_of_powers_does_not_keep_the_given_train_accuracy(tmp_path: Path):
    made = table(tmp_path, tasks=10)
    terms = (Term("train_accuracy", "identity"), Term("difficulty/ridge_accuracy", "identity"))
    of_test = Specification("of test", terms, "additive", test_accuracy=True)
    setting = Setting.of(made, of_test, locked=True)
    split_of = {name: split[:1] for name, split in splits(made).items()}
    listed = forms(setting, split_of)["splits"]["by task"]
    plain = Specification("plain", terms)
    held = hold_out_points(made, plain, split_of["by task"], setting.among)
    error = 100 * np.abs(held.gap - made.numbers("gap.accuracy")[held.rows]).mean()
    assert listed["of test, product of powers"]["mae"][0] == pytest.approx(error, abs=1e-3)


def test_every_single_measure_is_scored_on_the_rows_that_have_it(assessment: Assessment):
    singles = assessment.report["singles"]
    table = assessment.setting.table
    assert set(singles) == set(measures_of(table, assessment.setting.among))
    assert singles["path_norm/log"]["rows"] < 0.6 * singles["norm/log_sum_spectral"]["rows"]
    skills = {key: result["splits"]["by task"]["skill"][0] for key, result in singles.items()}
    best = max(skills, key=lambda key: skills[key])
    assert best.startswith("difficulty/")  # the only measures that the trivial features lack and the law contains
    assert skills["norm/log_sum_spectral"] < 0.05
    assert singles["train_loss"]["tau"]["along training"][0] > 0.5
    assert abs(singles["norm/log_sum_spectral"]["tau"]["along training"][0]) < 0.2


def test_groups_are_added_and_taken_on_common_rows(assessment: Assessment):
    groups = assessment.report["groups"]
    norms = groups["added"]["norms"]
    assert norms["keys"] == ["norm/log_sum_spectral"]  # not the one that is missing twice as often
    assert groups["added"]["norms (2)"]["keys"] == ["path_norm/log"]
    assert norms["rows"] == 2 * groups["added"]["norms (2)"]["rows"]
    assert set(groups["added"]) == {"margins", "norms", "norms (2)", "difficulty", "train metrics"}
    assert set(groups["absent"]) == {"sharpness", "curvature", "leave-one-out", "perturbation", "class structure"}
    gains = {name: g["splits"]["by task"]["mae gain"]["trivial + group"] for name, g in groups["added"].items()}
    assert gains["difficulty"][1] > 0
    assert gains["norms"][1] <= 0.2
    taken = groups["taken"]["splits"]["by task"]
    assert taken["all - difficulty"]["mae"][0] > taken["all"]["mae"][0]


def test_measures_that_are_facts_of_the_task_are_no_measures_and_logs_are_taken_where_positive():
    assert term_of("norm/log_sum_spectral").transform == "identity"
    assert term_of("margin/h1/median").transform == "log"
    assert term_of("train_accuracy").transform == "identity"
    assert term_of("sharpness/expected_0.01").transform == "identity"


def test_grid_scores_find_the_planted_gap_and_the_noise(assessment: Assessment):
    (grid,) = assessment.report["grids"]["grids"].values()
    assert grid["axes"] == {"width": 3, "depth": 2, "norm": 2}  # not the epochs, which follow from the width
    assert grid["models"] == 24
    scores = grid["scores"]
    assert scores["planted"]["pgdl"] > 60 > 35 > scores["norm/log_sum_spectral"]["pgdl"]
    assert scores["planted"]["mean"] < 0.1 < 0.3 < scores["norm/log_sum_spectral"]["mean"]
    assert scores["train_loss"]["tau"] > 0.2  # its direction (less loss, more gap) was learned on the other tasks
    assert "path_norm/log" not in scores  # missing in half of the models
    assert assessment.report["grids"]["mean"]["planted"]["grids"] == 1


def test_tables_without_a_grid_have_none(tmp_path: Path):
    made = table(tmp_path, tasks=2)
    assert grids(made, np.ones(len(made), bool)) == []
    assert set(axes_of(made, np.arange(len(made)))) == {"family", "source"}  # classes and noise follow from the source


def test_learning_curve_falls_and_ends_at_all_runs(assessment: Assessment):
    curve = assessment.report["learning curve"]["by task, runs drawn"]
    assert list(curve)[-1] == str(assessment.report["runs"])
    assert curve["50"]["mae"][0] > curve[str(assessment.report["runs"])]["mae"][0]
    assert curve["50"]["between draws"][1] > curve["50"]["between draws"][0]


def test_stages_and_contributions_add_up(assessment: Assessment):
    stages, report = assessment.report["stages"], assessment.report
    thirds = [stages[name]["rows"] for name in ("first third of training", "second third", "last third")]
    assert sum(thirds) == report["splits"]["by task"]["rows"]
    total = sum(c["mean"][0] for c in report["contributions"].values())
    actual = 100 * assessment.setting.table.numbers("gap.accuracy")[assessment.setting.among].mean()
    assert total == pytest.approx(actual, abs=0.5)


def test_specifications_come_from_names_and_predictor_files(tmp_path: Path, assessment: Assessment):
    assessed = assessment.setting.table
    assert specification_of("default_v1") == DEFAULT
    assert specification_of("default") == DEFAULT_3
    assert specification_of("images_v2") == IMAGES_2
    from lightning_gengap.predictors.files import dumps

    own = fit(table(tmp_path), PLANTED)
    (tmp_path / "own.json").write_text(dumps(own))
    found = specification_of(str(tmp_path / "own.json"))
    assert (found.name, found.form) == ("planted", "product_of_powers")
    assert [(t.name, t.transform) for t in found.features] == [(t.name, t.transform) for t in PLANTED.features]
    head = fit_loss_head(assessed, PLANTED, np.ones(len(assessed), bool))
    (tmp_path / "head.json").write_text(dumps(replace(own, loss_head=head)))
    assert specification_of(str(tmp_path / "head.json")).loss_head
    assert not found.loss_head
    assert not found.balanced
    assert not found.loss_of_gap
    assert not found.symmetric
    assert not found.memoriser
    balanced = replace(PLANTED, balanced=True, loss_of_gap=True, symmetric=True, memoriser="difficulty/ridge_accuracy")
    everything = np.ones(len(assessed), bool)
    with_head = replace(fit(assessed, balanced), loss_head=fit_loss_head(assessed, balanced, everything))
    (tmp_path / "balanced.json").write_text(dumps(with_head))
    found = specification_of(str(tmp_path / "balanced.json"))
    assert found.balanced
    assert found.loss_of_gap
    assert found.symmetric
    assert found.memoriser == "difficulty/ridge_accuracy"
    with pytest.raises(PredictorError, match="expected one of default"):
        specification_of("nonesuch")
