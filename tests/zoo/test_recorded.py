"""Predictions and fits against figures recorded before the package was laid out anew, at commit bea6544."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.zoo.fit.fit import fit, predict_rows, usable
from lightning_gengap.zoo.fit.loss_head import fit_loss_head
from lightning_gengap.zoo.fit.specifications import SPECIFICATIONS
from lightning_gengap.zoo.table import Table, read

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "pretrained_predictors" / "small_zoo_v3.csv.gz"
FITS = json.loads((HERE / "recorded" / "fits.json").read_text())
TOLERANCE = 1e-12


@pytest.fixture(scope="module")
def table() -> Table:
    return read(TABLE)


@pytest.mark.parametrize("name", FITS)
def test_predictions_on_the_committed_table_are_those_recorded(name: str, table: Table):
    predictor, rows = load_predictor(name), np.ones(len(table), bool)
    said = predict_rows(predictor, table, rows)
    found = {kind: getattr(said, kind) for kind in ("gap", "lower", "upper", "abstained")}
    if said.loss_gap is not None:
        found |= dict(zip(("loss_gap", "loss_lower", "loss_upper"), said.loss_gap, strict=True))
    with np.load(HERE / "recorded" / "predictions.npz") as recorded:
        kinds = {key.removeprefix(f"{name}/") for key in recorded.files if key.startswith(f"{name}/")}
        assert kinds == set(found)
        for kind, values in found.items():
            np.testing.assert_allclose(values, recorded[f"{name}/{kind}"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", FITS)
def test_live_predictions_are_those_recorded(name: str, table: Table):
    predictor = load_predictor(name)
    measured = {c.removeprefix("measure."): table.numbers(c) for c in table.names if c.startswith("measure.")}
    with np.load(HERE / "recorded" / "predictions.npz") as recorded:
        for row in range(0, len(table), 61):
            values = {key: float(column[row]) for key, column in measured.items() if np.isfinite(column[row])}
            prediction = predictor.predict(values)
            found = (prediction.gap, prediction.lower, prediction.upper, prediction.abstained)
            kinds = ("gap", "lower", "upper", "abstained")
            assert found == pytest.approx([recorded[f"{name}/{kind}"][row] for kind in kinds], rel=0, abs=TOLERANCE)


@pytest.mark.parametrize("name", FITS)
def test_fits_to_the_committed_table_are_those_recorded(name: str, table: Table):
    fitted, recorded = fit(table, SPECIFICATIONS[name]), FITS[name]
    assert {f.name: f.coefficient for f in fitted.features} == pytest.approx(recorded["features"], rel=1e-6)
    found = {
        "intercept": fitted.intercept,
        "below": fitted.interval.below,
        "above": fitted.interval.above,
        "prior_gap": fitted.prior_gap,
        "shared_by_task": fitted.provenance["shared_by_task"],
    }
    assert found == pytest.approx({key: recorded[key] for key in found}, rel=1e-6)
    if "loss_head" in recorded:
        head = fit_loss_head(table, SPECIFICATIONS[name], usable(table, SPECIFICATIONS[name]))
        assert head is not None
        assert {f.name: f.coefficient for f in head.features} == pytest.approx(
            recorded["loss_head"]["features"], rel=1e-6
        )
        ends = [head.intercept, head.below, head.above]
        assert ends == pytest.approx([recorded["loss_head"][key] for key in ("intercept", "below", "above")], rel=1e-6)
