"""The whole evaluation of a specification in one dictionary, which the written report and its figures show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_gengap import __version__
from lightning_gengap.predictors.specification import Specification
from lightning_gengap.zoo.evaluate.abilities import by_stage
from lightning_gengap.zoo.evaluate.comparable import measures_of
from lightning_gengap.zoo.evaluate.failures import by_kind, failures
from lightning_gengap.zoo.evaluate.grids import grid_scores
from lightning_gengap.zoo.evaluate.held_out import HeldOut, Setting, offered
from lightning_gengap.zoo.evaluate.one_family import in_family
from lightning_gengap.zoo.evaluate.split_scores import check_scores, split_scores
from lightning_gengap.zoo.fit.fit import check_enough, check_fit, fit, predict_rows
from lightning_gengap.zoo.splits import splits
from lightning_gengap.zoo.table import Table


@dataclass(frozen=True)
class Assessment:
    """Everything that the written report and its figures show.

    Attributes:
        report: plain numbers. A score is [value, low, high] with its 95 % interval, None where it is undefined.
        predictions: held-out predictions by split and contender.
    """

    setting: Setting
    report: dict[str, Any]
    predictions: Mapping[str, Mapping[str, HeldOut]]


def assess(table: Table, specification: Specification, locked: bool = False) -> Assessment:
    """Fit anew in every fold and score; about a minute of one core for 700 runs.

    Cells may be empty, and each comparison says on how many rows it was made. Not one row of the locked part is read
    unless `locked`. Too few runs or tasks and absent columns are refused before the long work.
    """
    check_fit(table, specification)
    check_scores(table, specification)
    allowed = offered(table, specification, locked)
    part = "the whole table" if locked else "the development part (all but the locked tasks, source and family)"
    check_enough(table, specification, allowed, part)
    setting = Setting.of(table, specification, locked)
    check_enough(table, specification, setting.among, f"{part} with the features of every baseline")
    scored, predictions = split_scores(setting, locked)
    report: dict[str, Any] = {
        "specification": {
            "name": specification.name,
            "features": [[term.name, term.transform] for term in specification.features],
        },
        "table_sha256": table.sha256,
        "package_version": __version__,
        "locked_part_used": locked,
        **scored,
        "in family": in_family(setting, allowed),
        "contributions": _contributions(setting),
    }
    held = predictions.get("by task", {})
    if held:
        rows, gaps = held[specification.name].rows, {name: one.gap for name, one in held.items()}
        report["kinds"] = by_kind(setting, held)
        report["worst runs"] = failures(setting, splits(table)["by task"], held[specification.name])
        report["stages"] = by_stage(table, rows, gaps, specification.name, setting.resampling)
        ranked = {name: (rows, gap) for name, gap in gaps.items() if name != "constant"}
        report["grids"] = grid_scores(table, setting.among, ranked, measures_of(table, setting.among))
    return Assessment(setting, report, predictions)


def _contributions(setting: Setting) -> dict[str, Any]:
    """Mean and mean size, in accuracy points, of what each feature adds to the gap, fitted and averaged on all rows."""
    rows, draws = np.flatnonzero(setting.among), setting.resampling
    predictor = fit(setting.table, setting.specification, setting.among)
    listed = {}
    for name, part in predict_rows(predictor, setting.table, setting.among).contributions.items():
        mean, size = draws.mean(100 * part, rows), draws.mean(100 * np.abs(part), rows)
        listed[name] = {"mean": mean.listed(), "size": size.listed()}
    return listed
