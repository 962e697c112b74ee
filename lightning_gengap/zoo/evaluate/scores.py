"""The whole evaluation of a specification: all scores, baselines, ablations and curves in one dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_gengap import __version__
from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.predictors.predictor import PREDICTED_GAP
from lightning_gengap.zoo.evaluate import ablation, curves, group_ablation, single_measures
from lightning_gengap.zoo.evaluate.abilities import by_stage
from lightning_gengap.zoo.evaluate.failures import by_kind, failures
from lightning_gengap.zoo.evaluate.grids import grid_scores
from lightning_gengap.zoo.evaluate.held_out import TRIVIAL_BASELINE, HeldOut, Setting, split_scores
from lightning_gengap.zoo.evaluate.needs import check_fit, check_runs, check_scores
from lightning_gengap.zoo.evaluate.splits import development, splits
from lightning_gengap.zoo.fit.fit import fit, usable
from lightning_gengap.zoo.fit.specifications import SPECIFICATIONS, Specification, Term
from lightning_gengap.zoo.table import Table


@dataclass(frozen=True)
class Assessment:
    """Everything that the written report and its figures show.

    Attributes:
        report: plain numbers; a score is [value, low, high] with its 95 % interval, None where undefined.
        predictions: held-out predictions by split and contender.
    """

    setting: Setting
    report: dict[str, Any]
    predictions: Mapping[str, Mapping[str, HeldOut]]


def specification_of(name_or_path: str) -> Specification:
    """A specification by name, or how a predictor given by name or path was fitted.

    Raises:
        PredictorError: neither is known, or the file is damaged.
    """
    if name_or_path in SPECIFICATIONS:
        return SPECIFICATIONS[name_or_path]
    predictor = load_predictor(name_or_path)
    memoriser = "" if predictor.memoriser is None else predictor.memoriser.name
    if predictor.name in SPECIFICATIONS and SPECIFICATIONS[predictor.name].form == predictor.form:
        known = SPECIFICATIONS[predictor.name]
        terms = (*known.features, *known.bounds)
        same = [(t.name, t.transform) for t in terms] == [(f.name, f.transform) for f in predictor.features]
        if same and known.memoriser == memoriser:
            return known  # the same, with floors still to be chosen from the fitted rows
    bounds = tuple(Term(f.name, f.transform, f.floor) for f in predictor.features if f.coefficient == 0)
    terms = tuple(Term(f.name, f.transform, f.floor) for f in predictor.features if f.coefficient != 0)
    first = predictor.features[0]
    of_test = predictor.form == "additive" and first.name == "train_accuracy" and abs(first.coefficient - 1) < 1e-6
    head = predictor.loss_head
    return Specification(
        predictor.name,
        terms,
        predictor.form,
        loss_head=head is not None,
        loss_of_gap=head is not None and any(feature.name == PREDICTED_GAP for feature in head.features),
        test_accuracy=of_test,
        balanced=bool(predictor.provenance.get("balanced", False)),
        symmetric=predictor.interval.above == -predictor.interval.below,
        offset=predictor.interval.offset,
        memoriser=memoriser,
        bounds=bounds,
    )


def assess(table: Table, specification: Specification, locked: bool = False) -> Assessment:
    """Re-fit in every fold and score; about a minute of one core for 700 snapshots with 45 measures.

    Args:
        table: measured runs; cells may be empty, and each comparison says on how many rows it was made.
        specification: what is fitted.
        locked: use the locked part too. Without it, not one of its rows is read.

    Raises:
        TableError: too few runs or tasks, or a column that is absent; at once.
    """
    check_fit(table, specification)
    check_scores(table, specification)
    allowed = np.ones(len(table), bool) if locked else development(table)
    allowed &= usable(table, specification) & usable(table, TRIVIAL_BASELINE)
    part = "the whole table" if locked else "the development part (all but the locked tasks, source and family)"
    check_runs(table, specification, allowed, part)
    setting = Setting.of(table, specification, locked)
    check_runs(table, specification, setting.among, f"{part} with the features of every baseline")
    scored, predictions = split_scores(setting, locked)
    split_of = splits(table)
    report: dict[str, Any] = {
        "specification": {
            "name": specification.name,
            "form": specification.form,
            "features": [[term.name, term.transform] for term in specification.features],
        },
        "table_sha256": table.sha256,
        "package_version": __version__,
        "locked_part_used": locked,
        **scored,
        "forms": ablation.forms(setting, split_of),
        "linearity": ablation.linearity(setting, split_of),
        "groups": group_ablation.groups(setting, split_of, allowed),
        "singles": single_measures.singles(setting, split_of, allowed),
        "fitted stage": curves.fitted_stage(setting, split_of),
        "learning curve": curves.learning_curve(setting, split_of),
        "in family": curves.in_family(setting, allowed),
        "contributions": _contributions(setting),
    }
    held = predictions.get("by task", {})
    if held:
        rows, gaps = held[specification.name].rows, {name: h.gap for name, h in held.items()}
        report["kinds"] = by_kind(setting, held)
        report["worst runs"] = failures(setting, split_of["by task"], held[specification.name])
        report["scarce"] = single_measures.scarce_orders(setting, held[specification.name])
        report["stages"] = by_stage(table, rows, gaps, specification.name, setting.resampling)
        ranked = {name: (rows, gap) for name, gap in gaps.items() if name != "constant"}
        report["grids"] = grid_scores(table, setting.among, ranked, ablation.measures_of(table, setting.among))
    return Assessment(setting, report, predictions)


def _contributions(setting: Setting) -> dict[str, Any]:
    """Mean and mean size, in accuracy points, of what each feature adds to the gap, fitted and averaged on all rows."""
    table, rows, draws = setting.table, np.flatnonzero(setting.among), setting.resampling
    predictor = fit(table, setting.specification, setting.among)
    needed = dict.fromkeys(("train_accuracy", "classes", *predictor.needs))
    columns = {name: table.numbers(f"measure.{name}")[rows] for name in needed}
    made = [
        predictor.predict({name: float(column[place]) for name, column in columns.items()}).contributions
        for place in range(len(rows))
    ]
    listed = {}
    memoriser = () if predictor.memoriser is None else ("memoriser",)
    for name in ("intercept", *(feature.name for feature in predictor.features), *memoriser, "limits"):
        values = 100 * np.array([one.get(name, 0.0) for one in made])
        listed[name] = {"mean": draws.mean(values, rows).listed(), "size": draws.mean(np.abs(values), rows).listed()}
    return listed
