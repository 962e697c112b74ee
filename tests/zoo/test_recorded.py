"""Predictions and fits against figures recorded before the package was laid out anew, at commit bea6544."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_gengap.predictors.files import dumps, load_predictor
from lightning_gengap.predictors.parts import UNSCALED
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.zoo.fit.fit import predict_rows, usable
from lightning_gengap.zoo.fit.loss_head import fit_with_head
from lightning_gengap.zoo.fit.scales import fitted_scales
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


@pytest.fixture(scope="module", params=[*FITS, "margins_v1"])
def fitted(request: pytest.FixtureRequest, table: Table) -> Predictor:
    return fit_with_head(table, SPECIFICATIONS[request.param])


def test_fits_to_the_committed_table_are_those_recorded(fitted: Predictor):
    if fitted.name == "margins_v1":
        return  # fitted to another table then
    recorded = FITS[fitted.name]
    assert {f.name: f.coefficient for f in fitted.features} == pytest.approx(recorded["features"], rel=1e-6)
    found = {"intercept": fitted.intercept, "below": fitted.interval.below, "above": fitted.interval.above}
    found |= {"prior_gap": fitted.prior_gap, "shared_by_task": fitted.provenance["shared_by_task"]}
    assert found == pytest.approx({key: recorded[key] for key in found}, rel=1e-6)
    head = fitted.loss_head
    assert (head is not None) == ("loss_head" in recorded)
    if head is not None:
        assert {f.name: f.coefficient for f in head.features} == pytest.approx(
            recorded["loss_head"]["features"], rel=1e-6
        )
        ends = [head.intercept, head.below, head.above]
        assert ends == pytest.approx([recorded["loss_head"][key] for key in ("intercept", "below", "above")], rel=1e-6)


def test_the_committed_table_reproduces_the_whole_file(fitted: Predictor):
    assert numbers(fitted) == pytest.approx(numbers(load_predictor(fitted.name)), abs=1e-6)
    assert text(fitted) == text(load_predictor(fitted.name))


@pytest.mark.parametrize(("table", "name"), [("third_zoo_v2", "default_v4"), ("image_zoo_v2", "images_v5")])
def test_the_later_tables_reproduce_the_files_of_their_predictors(table: str, name: str) -> None:
    fitted = fit_with_head(read(TABLE.with_name(f"{table}.csv.gz")), SPECIFICATIONS[name])
    assert numbers(fitted) == pytest.approx(numbers(load_predictor(name)), abs=1e-6)
    assert text(fitted) == text(load_predictor(name))


def test_the_third_table_reproduces_the_scales_of_its_predictor() -> None:
    table, specification = read(TABLE.with_name("third_zoo_v2.csv.gz")), SPECIFICATIONS["default_v4"]
    found = fitted_scales(table, specification, usable(table, specification))
    assert astuple(found) == pytest.approx(astuple(load_predictor("default_v4").scales), abs=1e-6)


def leaves(predictor: Predictor) -> dict[str, Any]:
    """Everything in a predictor's file but its scores, its scales and its hash, by path."""

    def of(part: Any, path: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(part, dict | list):
            yield path, part
            return
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            yield from of(value, f"{path}/{key}")

    content = json.loads(dumps(replace(predictor, scores={}, scales=UNSCALED)))
    del content["sha256"]
    return dict(of(content, ""))


def numbers(predictor: Predictor) -> dict[str, float]:
    return {path: leaf for path, leaf in leaves(predictor).items() if isinstance(leaf, float)}


def text(predictor: Predictor) -> dict[str, Any]:
    return {path: leaf for path, leaf in leaves(predictor).items() if not isinstance(leaf, float)}
