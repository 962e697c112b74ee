import math
from dataclasses import replace

import numpy as np
import pytest

from lightning_gengap.errors import PredictorError
from lightning_gengap.predictors.files import dumps, loads
from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.fit.fit import fit, held_out_gaps
from lightning_gengap.zoo.fit.loss_head import fit_loss_head, held_out_logs
from lightning_gengap.zoo.table import Table
from tests.zoo.tables import rows, table_of

PLANTED = Specification("planted", (Term("train_loss", "log"), Term("train_samples", "log")))


def made(noise: float = 0.0) -> Table:
    rng = np.random.default_rng(0)
    table_rows = rows(60)
    for row in table_rows:
        law = 0.4 - 0.6 * math.log(row["measure.train_loss"]) - 0.2 * math.log(row["measure.train_samples"])
        row["gap.loss"] = math.exp(law + noise * rng.normal())
    return table_of(table_rows)


def test_planted_law_is_recovered():
    table = made()
    head = fit_loss_head(table, PLANTED, np.ones(len(table), bool))
    assert head is not None
    assert [feature.coefficient for feature in head.features] == pytest.approx([-0.6, -0.2], abs=0.01)
    values = {"train_loss": np.array([0.2, 0.2]), "train_samples": np.array([900.0, math.nan])}
    found, missing = head.predict_columns(values, np.zeros(2, bool))[0]
    assert found == pytest.approx(math.exp(0.4 - 0.6 * math.log(0.2) - 0.2 * math.log(900)), rel=0.02)
    assert math.isnan(missing)


def test_interval_covers_held_out_tasks():
    table = made(noise=0.5)
    everything = np.ones(len(table), bool)
    head = fit_loss_head(table, PLANTED, everything)
    assert head is not None
    held = held_out_logs(table, PLANTED, everything)
    residuals = np.log(table.numbers("gap.loss")[held.rows]) - held.values[0]
    inside = ((residuals >= head.below) & (residuals <= head.above)).mean()
    assert 0.88 <= inside <= 0.96  # nominal 0.9; a new task counts as one of 61
    assert head.above == pytest.approx(1.645 * 0.5, rel=0.15)


def test_a_table_without_loss_gaps_gives_no_head():
    table = table_of(rows(8))
    assert fit_loss_head(table, PLANTED, np.ones(len(table), bool)) is None


def test_a_predictor_with_a_head_comes_back_from_its_file_and_predicts_both():
    table = made()
    predictor = replace(fit(table, PLANTED), loss_head=fit_loss_head(table, PLANTED, np.ones(len(table), bool)))
    assert loads(dumps(predictor), "here") == predictor
    seen = {"train_accuracy": 0.9, "classes": 10.0, "train_loss": 0.2, "train_samples": 900.0}
    gap, lower, upper = predictor.predict(seen).loss_gap or (0, 0, 0)
    assert 0 < lower <= gap <= upper
    low = predictor.predict(seen | {"train_accuracy": 0.1})
    assert low.abstained
    assert low.loss_gap == predictor.loss_head.prior  # type: ignore[union-attr]
    del seen["train_loss"]
    assert replace(predictor, features=predictor.features[1:]).predict(seen).loss_gap is None


def test_a_head_on_the_predicted_gap_recovers_its_power_and_reads_no_table_in_use():
    table_rows = rows(60)
    for row in table_rows:
        row["gap.loss"] = 3 * row["gap.accuracy"] ** 0.5
    table = table_of(table_rows)
    law = replace(
        PLANTED,
        features=(*PLANTED.features, Term("difficulty/ridge_accuracy", "identity")),
        loss_head="predicted_gap",
    )
    everything = np.ones(len(table), bool)
    gaps = held_out_gaps(table, law, everything)
    assert np.abs(gaps - table.numbers("gap.accuracy")).mean() < 0.01
    predictor = replace(fit(table, law), loss_head=fit_loss_head(table, law, everything))
    assert predictor.loss_head is not None
    assert [f.name for f in predictor.loss_head.features] == ["predicted_gap", "train_loss"]
    assert [f.coefficient for f in predictor.loss_head.features] == pytest.approx([0.5, 0], abs=0.02)
    assert "predicted_gap" not in predictor.needs
    assert loads(dumps(predictor), "here") == predictor
    seen = {"train_accuracy": 0.98, "classes": 10.0, "train_loss": 0.2, "train_samples": 900.0}
    said = predictor.predict(seen | {"difficulty/ridge_accuracy": 0.5})
    assert said.loss_gap is not None
    assert said.loss_gap[0] == pytest.approx(3 * said.gap**0.5, rel=0.03)


def test_the_predicted_gap_is_a_feature_of_heads_alone():
    predictor = fit(made(), PLANTED)
    odd = replace(predictor, features=(replace(predictor.features[0], name="predicted_gap"),))
    with pytest.raises(PredictorError, match="predicted_gap"):
        loads(dumps(odd), "here")
