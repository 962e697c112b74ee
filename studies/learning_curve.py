"""How the scores depend on what is fitted: the number of runs, the stage of training, and one family by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning_gengap.zoo.evaluate.regressors import hold_out_points, predicted_points
from lightning_gengap.zoo.evaluate.splits import Mask, Split, by_run

from lightning_gengap.zoo.evaluate.abilities import CONVERGED, last_snapshots
from lightning_gengap.zoo.evaluate.bootstrap import rounded
from lightning_gengap.zoo.evaluate.held_out import TRIVIAL_BASELINE, Setting
from lightning_gengap.zoo.fit.fit import usable
from lightning_gengap.zoo.fit.specifications import JIANG, Specification

SIZES = (25, 50, 100, 200, 400, 800, 1600)
REPEATS = 5
FEWEST_OF_ONE_KIND = 30


def learning_curve(setting: Setting, split_of: Mapping[str, list[Split]]) -> dict[str, Any]:
    """Error, R2 and skill when only so many runs are fitted, drawn at random or as whole tasks; five seeded draws each.

    A size counts the runs of the development rows that are offered to a fold; the fold's own held-out runs, and their
    kin, are then taken from them.
    """
    listed: dict[str, Any] = {}
    total = len(set(setting.table.words("run")[setting.among]))
    for split in ("by task", "leave one source out"):
        for drawn in ("runs", "tasks"):
            sizes = [size for size in SIZES if size < total] + [total]
            points = {str(size): _at(setting, split_of[split], drawn, size) for size in sizes}
            listed[f"{split}, {drawn} drawn"] = {size: point for size, point in points.items() if point is not None}
    return listed


def _at(setting: Setting, split: list[Split], drawn: str, size: int) -> dict[str, Any] | None:
    table, actual, draws = setting.table, setting.table.numbers("gap.accuracy"), setting.resampling
    orders = [_order(setting, drawn, repeat) for repeat in range(REPEATS)]
    offered = [np.isin(table.words("run"), order[:size]) for order in orders]
    parts: dict[str, list[Any]] = {"own": [], "trivial": []}
    rows: list[Any] = []
    for _, fitted, held in split:
        # The same held-out rows at every size: a fold counts where all draws of this size can be fitted.
        if not (held & setting.among).any() or not all(
            setting.codes.enough(fitted & setting.among & few) for few in offered
        ):
            continue
        rows.append(np.flatnonzero(held & setting.among))
        for key, specification in {"own": setting.specification, "trivial": TRIVIAL_BASELINE}.items():
            fold = [
                predicted_points(
                    table, specification, fitted & setting.among & few, held & setting.among, None, setting.codes
                )
                for few in offered
            ]
            parts[key].append(np.stack(fold))
    if not rows:
        return None
    of = np.concatenate(rows)
    gaps = {key: np.concatenate(value, axis=1) for key, value in parts.items()}
    errors = {key: 100 * np.abs(value - actual[of]).mean(axis=0) for key, value in gaps.items()}
    each = 100 * np.abs(gaps["own"] - actual[of]).mean(axis=1)
    return {
        "rows": len(of),
        "mae": draws.mean(errors["own"], of).listed(),
        "trivial": draws.mean(errors["trivial"], of).listed(),
        "skill": draws.skill(errors["own"], errors["trivial"], of).listed(),
        "r2": rounded(np.mean([draws.r2(gap, actual[of], of).value for gap in gaps["own"]])),
        "between draws": [rounded(each.min()), rounded(each.max())],
    }


def _order(setting: Setting, drawn: str, repeat: int) -> list[str]:
    """Runs in the order in which they are offered: shuffled, or task by shuffled task."""
    rng = np.random.default_rng(repeat)
    runs, first = np.unique(setting.table.words("run")[setting.among], return_index=True)
    shuffled = rng.permutation(len(runs))
    if drawn == "tasks":
        tasks = setting.table.words("task")[setting.among][first]
        rank = {task: place for place, task in enumerate(rng.permutation(sorted(set(tasks))))}
        shuffled = np.array(sorted(shuffled, key=lambda run: rank[tasks[run]]))
    return [str(run) for run in runs[shuffled]]


def fitted_stage(setting: Setting, split_of: Mapping[str, list[Split]]) -> dict[str, Any]:
    """Error on last snapshots, fitted to all snapshots or to last ones; and on earlier ones, fitted to last ones."""
    table, actual, draws = setting.table, setting.table.numbers("gap.accuracy"), setting.resampling
    last = last_snapshots(table)
    kinds = {"all": np.ones(len(table), bool), "last": last, "earlier": ~last}
    listed = {}
    for fitted_on, held_of in (("all", "last"), ("last", "last"), ("last", "earlier"), ("all", "earlier")):
        split = [(name, fitted & kinds[fitted_on], held & kinds[held_of]) for name, fitted, held in split_of["by task"]]
        held = hold_out_points(table, setting.specification, split, setting.among, None, setting.codes)
        error = draws.mean(100 * np.abs(held.gap - actual[held.rows]), held.rows)
        listed[f"{held_of} snapshots, fitted on {fitted_on}"] = {"rows": len(held.rows), "mae": error.listed()}
    return listed


def in_family(setting: Setting, allowed: Mask) -> dict[str, Any]:
    """Adjusted R2 in sample and grouped ten-fold R2 of 30 or more converged models of one family and data set."""
    table = setting.table
    settled = allowed & last_snapshots(table) & (table.numbers("measure.train_accuracy") >= CONVERGED)
    families, sources = table.words("recipe.family"), table.words("recipe.source")
    listed = {}
    for family, source in sorted(set(zip(families[settled].tolist(), sources[settled].tolist(), strict=True))):
        kind = settled & (families == family) & (sources == source)
        for specification in (setting.specification, Specification("Jiang's 20 margin features", JIANG, "additive")):
            rows = kind & usable(table, specification)
            if rows.sum() >= max(FEWEST_OF_ONE_KIND, len(specification.features) + 10):
                listed[f"{family} on {source}: {specification.name}"] = _fitted_r2(setting, specification, rows)
    return listed


def _fitted_r2(setting: Setting, specification: Specification, rows: Mask) -> dict[str, Any]:
    table, actual = setting.table, setting.table.numbers("gap.accuracy")[rows]
    count, features = int(rows.sum()), len(specification.features)
    inside = predicted_points(table, specification, rows, rows, None, setting.codes)
    plain = 1 - ((actual - inside) ** 2).sum() / ((actual - actual.mean()) ** 2).sum()
    held = np.full(len(table), np.nan)
    for _, fitted, left in by_run(table):
        if (left & rows).any():
            held[left & rows] = predicted_points(table, specification, fitted & rows, left & rows, None, setting.codes)
    return {
        "runs": count,
        "adjusted R2 in sample": rounded(1 - (1 - plain) * (count - 1) / (count - features - 1)),
        "ten-fold R2": setting.resampling.r2(held[rows], actual, np.flatnonzero(rows)).listed(),
    }
