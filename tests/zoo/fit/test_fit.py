import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_gengap import available_predictors, load_predictor
from lightning_gengap.errors import TableError
from lightning_gengap.zoo.fit.fit import fit, predicted, usable, weighted_quantile
from lightning_gengap.zoo.fit.specifications import SPECIFICATIONS, Specification, Term
from lightning_gengap.zoo.table import read, write
from tests.zoo.tables import rows, table

PLANTED = Specification(
    "planted", (Term("train_loss", "log"), Term("train_samples", "log"), Term("difficulty/ridge_accuracy", "identity"))
)
ROOT = Path(__file__).parents[3]


def test_planted_coefficients_are_recovered(tmp_path: Path):
    fitted = fit(table(tmp_path), PLANTED)
    coefficients = {feature.name: feature.coefficient for feature in fitted.features}
    assert coefficients["train_loss"] == pytest.approx(-0.3, abs=2e-3)
    assert coefficients["train_samples"] == pytest.approx(-0.2, abs=2e-3)
    assert coefficients["difficulty/ridge_accuracy"] == pytest.approx(-1.5, abs=2e-2)


def test_prediction_through_the_file_equals_the_planted_law(tmp_path: Path):
    made = table(tmp_path)
    gap, _, _, abstained = predicted(fit(made, PLANTED), made, np.ones(len(made), bool))
    assert not abstained.any()
    assert np.abs(gap - made.numbers("gap.accuracy")).max() < 2e-3


def test_fitting_the_test_accuracy_gives_train_accuracy_coefficient_one(tmp_path: Path):
    made = rows(24)
    for row in made:
        test = 0.2 + 0.5 * row["measure.difficulty/ridge_accuracy"] - 0.03 * math.log(row["measure.train_loss"])
        row["gap.accuracy"] = row["measure.train_accuracy"] - test
    write(made, tmp_path / "t.csv.gz")
    terms = (
        Term("train_accuracy", "identity"),
        Term("difficulty/ridge_accuracy", "identity"),
        Term("train_loss", "log"),
    )
    fitted = fit(read(tmp_path / "t.csv.gz"), Specification("planted", terms, "additive", test_accuracy=True))
    assert [feature.coefficient for feature in fitted.features] == pytest.approx([1.0, -0.5, 0.03], abs=5e-3)


def test_interval_covers_new_tasks_of_noisy_data(tmp_path: Path):
    fitted = fit(table(tmp_path, tasks=48, noise=0.3), PLANTED)
    (tmp_path / "new").mkdir()
    fresh = table(tmp_path / "new", tasks=48, noise=0.3, seed=1)
    _, lower, upper, kept = predicted(fitted, fresh, np.ones(len(fresh), bool))
    actual = fresh.numbers("gap.accuracy")[~kept]
    covered = ((actual >= lower[~kept]) & (actual <= upper[~kept])).mean()
    assert 0.85 <= covered <= 0.97  # 1,536 rows; nominal 0.9


def test_conformal_quantile_weighs_groups_equally():
    values = np.array([1.0, 2.0, 3.0, 10.0, 11.0])
    groups = np.array(["a", "a", "a", "b", "c"])
    assert weighted_quantile(values, groups, 0.25) == 3.0  # three of group a together weigh 1 / 4
    assert weighted_quantile(values, groups, 0.5) == 10.0
    assert weighted_quantile(values, groups, 0.99) == 11.0  # beyond the last group: the largest


def test_rows_below_the_abstention_level_take_no_part(tmp_path: Path):
    made = rows(8)
    for row in made[::2]:
        row["measure.train_accuracy"] = 0.4
    write(made, tmp_path / "t.csv.gz")
    assert usable(read(tmp_path / "t.csv.gz"), PLANTED).sum() == len(made) // 2


def test_constant_feature_and_too_few_tasks_are_refused(tmp_path: Path):
    made = [row | {"measure.train_samples": 500.0} for row in rows(8)]
    write(made, tmp_path / "t.csv.gz")
    with pytest.raises(TableError, match="one constant value"):
        fit(read(tmp_path / "t.csv.gz"), PLANTED)
    with pytest.raises(TableError, match="at least 20 runs in 5 tasks"):
        fit(table(tmp_path, tasks=3), PLANTED)


def test_what_grows_with_the_train_size_has_no_coefficient_where_no_set_is_large(tmp_path: Path):
    write([row | {"measure.perturbation/excess_by_size": 0.0} for row in rows()], tmp_path / "t.csv.gz")
    by_size = Term("perturbation/excess_by_size", "identity")
    fitted = fit(read(tmp_path / "t.csv.gz"), replace(PLANTED, features=(*PLANTED.features, by_size)))
    assert fitted.features[-1].coefficient == 0
    assert fitted.intercept == pytest.approx(fit(read(tmp_path / "t.csv.gz"), PLANTED).intercept, rel=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_grows_with_the_train_size_never_raises_the_gap(tmp_path: Path, sign: int):
    made = rows()
    for number, row in enumerate(made):
        row["measure.perturbation/excess_by_size"] = by = float(number % 7)
        row["gap.accuracy"] += sign * 0.01 * by
        row["gap.test_accuracy"] -= sign * 0.01 * by
    write(made, tmp_path / "t.csv.gz")
    by_size = Term("perturbation/excess_by_size", "identity")
    specification = Specification("planted", (*PLANTED.features, by_size), "additive")
    coefficient = fit(read(tmp_path / "t.csv.gz"), specification).features[-1].coefficient
    assert coefficient == (0 if sign > 0 else pytest.approx(-0.01, rel=0.05))


def test_bounds_have_no_coefficient_but_make_the_predictor_abstain(tmp_path: Path):
    made = table(tmp_path)
    bounded = replace(PLANTED, features=(PLANTED.features[0], PLANTED.features[2]), bounds=(PLANTED.features[1],))
    fitted = fit(made, bounded)
    assert [feature.name for feature in fitted.features] == ["train_loss", "difficulty/ridge_accuracy", "train_samples"]
    assert fitted.features[-1].coefficient == 0
    values = {"train_accuracy": 0.98, "train_loss": 0.2, "difficulty/ridge_accuracy": 0.5, "classes": 3.0}
    inside, outside = (fitted.predict(values | {"train_samples": n}) for n in (1000.0, 1e6))
    assert outside.abstained
    assert not inside.abstained
    assert inside.contributions["train_samples"] == 0


def test_symmetric_intervals_are_as_wide_on_both_sides_and_cover(tmp_path: Path):
    made = table(tmp_path, noise=0.3)
    fitted = fit(made, replace(PLANTED, symmetric=True))
    assert fitted.interval.above == -fitted.interval.below > 0
    gap, lower, upper, _ = predicted(fitted, made, np.ones(len(made), bool))
    actual = made.numbers("gap.accuracy")
    assert 0.85 < ((lower <= actual) & (actual <= upper)).mean() < 0.96
    assert (gap >= lower).all()


@pytest.mark.parametrize("name", [name for name in available_predictors() if name in SPECIFICATIONS])
def test_committed_tables_reproduce_the_bundled_predictors(name: str):
    bundled = load_predictor(name)
    tables = [read(path) for path in sorted((ROOT / "pretrained_predictors").glob("*.csv.gz"))]
    (table,) = [one for one in tables if one.sha256 == bundled.provenance["table_sha256"]]
    again = fit(table, SPECIFICATIONS[name])
    assert {name: again.provenance[name] for name in bundled.provenance} == bundled.provenance
    assert [f.name for f in again.features] == [f.name for f in bundled.features]
    for ours, theirs in zip(again.features, bundled.features, strict=True):
        assert ours.coefficient == pytest.approx(theirs.coefficient, abs=1e-6)
    assert math.isclose(again.intercept, bundled.intercept, abs_tol=1e-6)
    assert (again.interval.below, again.interval.above) == pytest.approx(
        (bundled.interval.below, bundled.interval.above), abs=1e-6
    )
