"""Scores of models of one family on one data set, held out by run: there are too few tasks to hold out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_gengap.predictors.parts import contributions
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.predictors.specification import Specification
from lightning_gengap.zoo.evaluate.abilities import converged, last_snapshots
from lightning_gengap.zoo.evaluate.bootstrap import DRAWS, Resampling, rounded
from lightning_gengap.zoo.evaluate.failures import worst_runs
from lightning_gengap.zoo.evaluate.grids import axes_of
from lightning_gengap.zoo.evaluate.held_out import HeldOut, Setting, fitted_alike, hold_out, part_of
from lightning_gengap.zoo.evaluate.quick import hold_out_points, predicted_points
from lightning_gengap.zoo.fit.fit import fit, usable
from lightning_gengap.zoo.fit.specifications import BASELINES, JIANG
from lightning_gengap.zoo.splits import by_run
from lightning_gengap.zoo.table import Mask, Table

FEWEST_CONVERGED, FEWEST_OF_ONE_KIND, WORST = 5, 30, 3
KINDS = ("all snapshots", "converged")


def scored_by_run(table: Table, specification: Specification) -> tuple[dict[str, Any], HeldOut]:
    """Held-out errors by run (ten folds), of the specification and the baselines on the same rows.

    Mean absolute and mean signed errors in accuracy points and R2, over all snapshots and over the last ones of
    converged runs; for the specification also coverage and mean width of the interval, mean absolute contributions and
    the worst runs. A score is [value, low, high] with a 95 % interval over runs. Returns the specification's
    predictions too.
    """
    contenders = (specification, *(fitted_alike(baseline, specification) for baseline in BASELINES))
    among = np.logical_and.reduce([usable(table, contender) for contender in contenders])
    settled = converged(table)
    draws, samples = over_runs(table, among), table.numbers("measure.train_samples")[among]
    listed: dict[str, Any] = {
        "rows": int(among.sum()),
        "runs": table.count("run", among),
        "train samples": [int(samples.min()), int(samples.max())],
        "by run": {},
    }
    predictions = {c.name: hold_out(table, c, by_run(table), among) for c in contenders}
    for contender in contenders:
        held = predictions[contender.name]
        parts = {"all snapshots": held}
        if settled[held.rows].sum() >= FEWEST_CONVERGED:
            parts["converged"] = part_of(held, settled[held.rows])
        listed["by run"][contender.name] = {kind: _errors(table, draws, part) for kind, part in parts.items()}
        if contender is specification:
            listed["by run"][contender.name] |= _of_interval(table, draws, parts)
            setting = Setting(table, contenders, among, (), draws)
            listed["worst runs"] = _worst(setting, held)
    listed["contributions"] = moved(table, fit(table, specification, among), among)
    return listed, predictions[specification.name]


def over_runs(table: Table, among: Mask) -> Resampling:
    """Draws of these rows' runs with replacement, whatever their tasks: there are one or two."""
    runs, run_of_row = np.unique(table.words("run"), return_inverse=True)
    own = np.unique(run_of_row[among])
    weights = np.zeros((DRAWS, len(runs)))
    weights[:, own] = np.random.default_rng(0).multinomial(len(own), np.full(len(own), 1 / len(own)), size=DRAWS)
    return Resampling(run_of_row.astype(np.int64), weights)


def moved(table: Table, predictor: Predictor, rows: Mask) -> dict[str, float]:
    """By feature, the mean over rows of how far it moves the prediction from the fit's centre, in points (additive)."""
    added = contributions(predictor.features, table.measured(predictor.needs, rows))
    return {name: rounded(100 * np.abs(values).mean()) for name, values in added.items()}


def _errors(table: Table, draws: Resampling, held: HeldOut) -> dict[str, Any]:
    actual = table.numbers("gap.accuracy")[held.rows]
    error = 100 * (held.gap - actual)
    return {
        "rows": len(held.rows),
        "mae": draws.mean(np.abs(error), held.rows).listed(),
        "signed": draws.mean(error, held.rows).listed(),
        "r2": draws.r2(held.gap, actual, held.rows).listed(),
    }


def _of_interval(table: Table, draws: Resampling, parts: Mapping[str, HeldOut]) -> dict[str, Any]:
    found: dict[str, Any] = {"coverage": {}, "width": {}}
    for kind, held in parts.items():
        found["coverage"][kind], found["width"][kind] = coverage_and_width(table, draws, held)
    return found | {"abstained": rounded(parts["all snapshots"].abstained.mean())}


def coverage_and_width(table: Table, draws: Resampling, held: HeldOut) -> tuple[list[float] | None, list[float] | None]:
    """Share of these rows inside the interval, and its mean width in points, each [value, low, high]."""
    actual = table.numbers("gap.accuracy")[held.rows]
    inside = ((actual >= held.lower) & (actual <= held.upper)).astype(float)
    return draws.mean(inside, held.rows).listed(), draws.mean(100 * (held.upper - held.lower), held.rows).listed()


def _worst(setting: Setting, held: HeldOut) -> list[dict[str, Any]]:
    """The runs with the largest mean error, with the hyperparameters that vary within their grids."""
    table, listed = setting.table, []
    runs, grids = table.words("run"), table.words("recipe.grid")
    last = setting.among & last_snapshots(table)
    for one in worst_runs(setting, list(by_run(table)), held, WORST):
        place = int(np.flatnonzero(runs == one["run"])[0])
        axes = axes_of(table, np.flatnonzero(last & (grids == grids[place])))
        kept = ("run", "error", "snapshots", "predicted", "actual", "train accuracy", "misled")
        chosen = {axis: table.columns[f"recipe.{axis}"][place] for axis in axes}
        listed.append({key: one[key] for key in kept} | {"grid": str(grids[place]), "hyperparameters": chosen})
    return listed


def in_family(setting: Setting, allowed: Mask) -> dict[str, Any]:
    """Adjusted R2 in sample and grouped ten-fold R2 of 30 or more converged models of one family and data set."""
    table = setting.table
    settled = allowed & converged(table)
    families, sources = table.words("recipe.family"), table.words("recipe.source")
    listed = {}
    for family, source in sorted(set(zip(families[settled].tolist(), sources[settled].tolist(), strict=True))):
        kind = settled & (families == family) & (sources == source)
        for specification in (setting.specification, JIANG):
            rows = kind & usable(table, specification)
            if rows.sum() >= max(FEWEST_OF_ONE_KIND, len(specification.features) + 10):
                listed[f"{family} on {source}: {specification.name}"] = _fitted_r2(setting, specification, rows)
    return listed


def _fitted_r2(setting: Setting, specification: Specification, rows: Mask) -> dict[str, Any]:
    table, actual = setting.table, setting.table.numbers("gap.accuracy")
    count, features = int(rows.sum()), len(specification.features)
    inside = predicted_points(table, specification, rows, rows)
    plain = 1 - ((actual[rows] - inside) ** 2).sum() / ((actual[rows] - actual[rows].mean()) ** 2).sum()
    held, gap = hold_out_points(table, specification, by_run(table), rows, fewest_tasks=1)
    return {
        "runs": count,
        "adjusted R2 in sample": rounded(1 - (1 - plain) * (count - 1) / (count - features - 1)),
        "ten-fold R2": setting.resampling.r2(gap, actual[held], held).listed(),
    }
