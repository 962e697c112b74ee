"""Groups of measures: fitted to what the features leave, silent where one of them is missing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lightning_gengap.predictors.files import dumps, loads
from lightning_gengap.predictors.specification import Group, Specification, Term
from lightning_gengap.zoo.fit.fit import fit, predict_rows
from lightning_gengap.zoo.fit.row_weights import row_weights
from tests.zoo.tables import rows, table_of

FEATURES = (Term("train_loss", "log"), Term("train_samples", "log"), Term("difficulty/ridge_accuracy"))
MARGIN, WHISKER = "margin/h1/median", "margin/h3/lower_whisker"
PLAIN = Specification("planted", FEATURES, strength=1e-4)


def grouped(penalty: float | None, *names: str) -> Specification:
    terms = tuple(Term(name, "log", floor=1e-6) for name in names or (MARGIN,))
    return replace(PLAIN, groups=(Group("margins", terms, penalty),))


def planted(coefficient: float = -0.02, without: int = 0) -> list[dict[str, Any]]:
    """The planted law, and a coefficient times the log of a margin; runs with lower numbers lack it."""
    made = rows(24)
    for row in made:
        row["gap.accuracy"] += coefficient * math.log(row[f"measure.{MARGIN}"])
        row["gap.test_accuracy"] = row["measure.train_accuracy"] - row["gap.accuracy"]
        if int(row["run"].partition("-")[2]) < without:
            row[f"measure.{MARGIN}"] = math.nan
    return made


def test_recovers_what_the_features_leave() -> None:
    (group,) = fit(table_of(planted()), grouped(1.0)).groups
    assert [feature.coefficient for feature in group.features] == pytest.approx([-0.02], abs=1e-3)


@pytest.mark.parametrize("penalty", [1e6, None])
def test_a_large_penalty_leaves_the_fit_without_it(penalty: float | None) -> None:
    table = table_of(planted())
    plain, own = fit(table, PLAIN), fit(table, grouped(penalty))
    (feature,) = own.groups[0].features
    assert abs(feature.coefficient) < 1e-3
    assert penalty or feature.coefficient == 0.0
    assert own.features == plain.features
    everywhere = np.ones(len(table), bool)
    assert np.abs(predict_rows(own, table, everywhere).gap - predict_rows(plain, table, everywhere).gap).max() < 1e-3


def test_adds_nothing_on_average_and_nothing_where_it_is_missing() -> None:
    table = table_of(planted(without=3))
    own, plain = fit(table, grouped(1.0)), fit(table, PLAIN)
    everywhere, lacking = np.ones(len(table), bool), ~np.isfinite(table.numbers(f"measure.{MARGIN}"))
    added = predict_rows(own, table, everywhere).contributions[MARGIN]
    assert np.abs(added[lacking]).max() == 0.0
    assert np.abs(added[~lacking]).min() > 0.0
    assert row_weights(table, PLAIN, ~lacking) @ added[~lacking] == pytest.approx(0.0, abs=1e-6)
    without = predict_rows(plain, table, lacking)
    assert np.array_equal(predict_rows(own, table, lacking).gap, without.gap)
    assert not without.abstained.any()


def test_one_missing_measure_silences_its_whole_group() -> None:
    predictor = fit(table_of(planted()), grouped(1.0, MARGIN, WHISKER))
    values = {"train_accuracy": 0.97, "classes": 3.0, "train_loss": 0.2, "train_samples": 900.0}
    values |= {"difficulty/ridge_accuracy": 0.5, MARGIN: 0.1}
    prediction = predictor.predict(values)
    assert prediction.contributions[MARGIN] == prediction.contributions[WHISKER] == 0.0
    assert prediction.in_support
    assert not prediction.missing
    whole = predictor.predict(values | {WHISKER: 1.0})
    assert whole.contributions[MARGIN] != 0.0
    assert sum(whole.contributions.values()) == pytest.approx(whole.gap)


def test_values_far_outside_count_as_near_ones_and_do_not_abstain() -> None:
    predictor = fit(table_of(planted()), grouped(1.0))
    (feature,) = predictor.groups[0].features
    values = {"train_accuracy": 0.97, "classes": 3.0, "train_loss": 0.2, "train_samples": 900.0}
    values |= {"difficulty/ridge_accuracy": 0.5}
    end = feature.coefficient * (feature.high + feature.deviation - feature.centre)
    far = predictor.predict(values | {MARGIN: 1e9})
    assert far.contributions[MARGIN] == pytest.approx(end)
    assert not far.abstained


def test_a_measure_of_too_few_runs_is_left_out() -> None:
    made = planted()
    for row in made:
        if row["task"] not in ("task00", "task01"):
            row[f"measure.{MARGIN}"] = math.nan
    assert fit(table_of(made), grouped(1.0)).groups[0].features == ()


def test_goes_through_its_file() -> None:
    predictor = fit(table_of(planted()), grouped(10.0, MARGIN, WHISKER))
    assert loads(dumps(predictor), "made") == predictor
    assert set(predictor.reads) - set(predictor.needs) == {MARGIN, WHISKER}
