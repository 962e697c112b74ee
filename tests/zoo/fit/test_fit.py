import math
from dataclasses import replace

import numpy as np
import pytest

from lightning_gengap import available_predictors
from lightning_gengap.errors import TableError
from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.fit.fit import fit, predict_rows, usable
from lightning_gengap.zoo.fit.interval import shared_variance, weighted_quantile
from lightning_gengap.zoo.fit.ridge import Regression
from lightning_gengap.zoo.fit.specifications import SPECIFICATIONS, TRAIN_SAMPLES
from tests.zoo.tables import rows, table, table_of

PLANTED = Specification("planted", (Term("train_loss", "log"), TRAIN_SAMPLES, Term("difficulty/ridge_accuracy")))


def test_planted_coefficients_are_recovered():
    fitted = fit(table(), PLANTED)
    coefficients = {feature.name: feature.coefficient for feature in fitted.features}
    assert coefficients["train_loss"] == pytest.approx(-0.03, abs=2e-4)
    assert coefficients["train_samples"] == pytest.approx(-0.02, abs=2e-4)
    assert coefficients["difficulty/ridge_accuracy"] == pytest.approx(-0.15, abs=2e-3)


def test_prediction_through_the_file_equals_the_planted_law():
    made = table()
    said = predict_rows(fit(made, PLANTED), made, np.ones(len(made), bool))
    assert not said.abstained.any()
    assert np.abs(said.gap - made.numbers("gap.accuracy")).max() < 2e-4


def test_fitting_the_test_accuracy_gives_train_accuracy_coefficient_one():
    made = rows(24)
    for row in made:
        test = 0.2 + 0.5 * row["measure.difficulty/ridge_accuracy"] - 0.03 * math.log(row["measure.train_loss"])
        row["gap.accuracy"] = row["measure.train_accuracy"] - test
    terms = (
        Term("train_accuracy", "identity"),
        Term("difficulty/ridge_accuracy", "identity"),
        Term("train_loss", "log"),
    )
    fitted = fit(table_of(made), Specification("planted", terms, test_accuracy=True))
    assert [feature.coefficient for feature in fitted.features] == pytest.approx([1.0, -0.5, 0.03], abs=5e-3)


def test_interval_covers_new_tasks_of_noisy_data():
    fitted = fit(table(tasks=48, noise=0.3), PLANTED)
    fresh = table(tasks=48, noise=0.3, seed=1)
    said = predict_rows(fitted, fresh, np.ones(len(fresh), bool))
    kept, actual = ~said.abstained, fresh.numbers("gap.accuracy")
    covered = ((actual >= said.lower) & (actual <= said.upper))[kept].mean()
    assert 0.85 <= covered <= 0.97  # 1,536 rows; nominal 0.9


def test_conformal_quantile_weighs_groups_equally():
    values = np.array([1.0, 2.0, 3.0, 10.0, 11.0])
    groups = np.array(["a", "a", "a", "b", "c"])
    assert weighted_quantile(values, groups, 0.25) == 3.0  # three of group a together weigh 1 / 4
    assert weighted_quantile(values, groups, 0.5) == 10.0
    assert weighted_quantile(values, groups, 0.99) == 11.0  # beyond the last group: the largest


def test_rows_below_the_abstention_level_take_no_part():
    made = rows(8)
    for row in made[::2]:
        row["measure.train_accuracy"] = 0.4
    assert usable(table_of(made), PLANTED).sum() == len(made) // 2


def test_constant_feature_and_too_few_tasks_are_refused():
    made = [row | {"measure.train_samples": 500.0} for row in rows(8)]
    with pytest.raises(TableError, match="one constant value"):
        fit(table_of(made), PLANTED)
    with pytest.raises(TableError, match="at least 20 runs in 5 tasks"):
        fit(table(tasks=3), PLANTED)


def test_what_grows_with_the_train_size_has_no_coefficient_where_no_set_is_large():
    saved = table_of([row | {"measure.perturbation/excess_by_size": 0.0} for row in rows()])
    by_size = Term("perturbation/excess_by_size", scale="log_size", never_raises=True)
    fitted = fit(saved, replace(PLANTED, features=(*PLANTED.features, by_size)))
    assert fitted.features[-1].coefficient == 0
    assert fitted.intercept == pytest.approx(fit(saved, PLANTED).intercept, rel=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_grows_with_the_train_size_never_raises_the_gap(sign: int):
    made = rows()
    for number, row in enumerate(made):
        row["measure.perturbation/excess_by_size"] = by = float(number % 7)
        row["gap.accuracy"] += sign * 0.01 * by
        row["gap.test_accuracy"] -= sign * 0.01 * by
    by_size = Term("perturbation/excess_by_size", scale="log_size", never_raises=True)
    specification = Specification("planted", (*PLANTED.features, by_size))
    coefficient = fit(table_of(made), specification).features[-1].coefficient
    assert coefficient == (0 if sign > 0 else pytest.approx(-0.01, rel=0.05))


def test_bounds_have_no_coefficient_but_make_the_predictor_abstain():
    made = table()
    bounded = replace(PLANTED, features=(PLANTED.features[0], PLANTED.features[2]), bounds=(PLANTED.features[1],))
    fitted = fit(made, bounded)
    assert [feature.name for feature in fitted.features] == ["train_loss", "difficulty/ridge_accuracy", "train_samples"]
    assert fitted.features[-1].coefficient == 0
    values = {"train_accuracy": 0.98, "train_loss": 0.2, "difficulty/ridge_accuracy": 0.5, "classes": 3.0}
    inside, outside = (fitted.predict(values | {"train_samples": n}) for n in (1000.0, 1e6))
    assert outside.abstained
    assert not inside.abstained
    assert inside.contributions["train_samples"] == 0


def test_symmetric_intervals_are_as_wide_on_both_sides_and_cover():
    made = table(noise=0.3)
    fitted = fit(made, replace(PLANTED, symmetric=True))
    assert fitted.interval.above == -fitted.interval.below > 0
    said = predict_rows(fitted, made, np.ones(len(made), bool))
    actual = made.numbers("gap.accuracy")
    assert 0.85 < ((said.lower <= actual) & (actual <= said.upper)).mean() < 0.96
    assert (said.gap >= said.lower).all()


@pytest.mark.parametrize("balanced", [False, True])
def test_many_strengths_are_each_weighted_least_squares_with_a_free_intercept(balanced: bool):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)), rng.normal(size=60)
    weights = rng.uniform(0.1, 2, 60) if balanced else np.ones(60)
    columns, strengths = np.column_stack([np.ones(60), x]), (0.01, 0.1, 1.0)
    lines = Regression((), x, y, weights, np.zeros(2, bool)).lines(strengths)
    for strength, line in zip(strengths, lines, strict=True):
        penalty = np.diag([0, 1, 1]) * strength * weights.sum()
        solution = np.linalg.solve(columns.T @ (columns * weights[:, None]) + penalty, columns.T @ (weights * y))
        assert [line.intercept, *line.coefficients] == pytest.approx(solution, abs=1e-12)


def test_shared_variance_is_the_intraclass_correlation():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(400), 6)
    values = rng.normal(size=400)[groups] * math.sqrt(0.3) + rng.normal(size=2400) * math.sqrt(0.7)
    assert shared_variance(values, groups) == pytest.approx(0.3, abs=0.08)  # about 3 standard errors
    assert shared_variance(rng.normal(size=2400), groups) < 0.06
    assert shared_variance(groups.astype(float), groups) == 1.0


def test_every_specification_has_a_bundled_predictor():
    assert {"default", *SPECIFICATIONS} == set(available_predictors())
