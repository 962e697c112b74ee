"""Rank scores on tasks that carry a full grid of hyperparameters: PGDL score, sign errors, tau."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_gengap.zoo.evaluate.abilities import last_snapshots
from lightning_gengap.zoo.evaluate.bootstrap import bootstrap
from lightning_gengap.zoo.evaluate.rank_scores import Labels, conditional_mutual_information, kendall, sign_errors
from lightning_gengap.zoo.table import Floats, Mask, Rows, Table

FEWEST_MODELS = 8
_CONSEQUENCES = ("recipe.epochs", "recipe.snapshot_every")  # often follow from the others: asked first
_NO_AXES = ("recipe.seed", "recipe.copy", "recipe.grid")
_RANDOM_ORDERS = 50
Grid = tuple[str, Rows, dict[str, Labels]]


def grids(table: Table, among: Mask) -> list[Grid]:
    """Name, last snapshots and levels per axis of every grid (within one task) that has at least two axes."""
    if "recipe.grid" not in table.columns:
        return []
    names, tasks = table.words("recipe.grid"), table.words("task")
    chosen = among & last_snapshots(table) & (names != "")
    found = []
    for name, task in sorted(set(zip(names[chosen].tolist(), tasks[chosen].tolist(), strict=True))):
        rows = np.flatnonzero(chosen & (names == name) & (tasks == task))
        axes = axes_of(table, rows)
        if len(rows) >= FEWEST_MODELS and len(axes) >= 2:
            found.append((f"{name} ({table.words('recipe.source')[rows[0]]}, {task})", rows, axes))
    return found


def axes_of(table: Table, rows: Rows) -> dict[str, Labels]:
    """Hyperparameters that vary among these rows and do not follow from the others, as levels 0, 1, ..."""
    levels = {
        column: np.unique(table.words(column)[rows], return_inverse=True)[1].astype(np.int64)
        for column in table.names
        if column.startswith("recipe.") and column not in _NO_AXES
    }
    levels = {column: level for column, level in levels.items() if level.max() > 0}
    for column in sorted(levels, key=lambda name: (name not in _CONSEQUENCES, name)):
        others = [level for name, level in levels.items() if name != column]
        if others and _settings(others) == _settings([*others, levels[column]]):
            del levels[column]
    return {column.removeprefix("recipe."): level for column, level in levels.items()}


def grid_scores(
    table: Table, among: Mask, gaps: Mapping[str, tuple[Rows, Floats]], keys: Sequence[str]
) -> dict[str, Any]:
    """PGDL score, sign errors and tau with the gap on every grid, for predicted gaps and for every single measure.

    `random order` is the mean over shuffled measures, which is what luck scores on so few models. Sign errors and tau
    need a measure's direction; it is learned on the last snapshots of the other tasks. The interval of a mean comes
    from resampled grids. `gaps` holds the held-out rows and predicted gaps by contender.
    """
    found = grids(table, among)
    columns = {name: _spread(table, *gap) for name, gap in gaps.items()}
    columns |= {key: table.numbers(f"measure.{key}") for key in keys}
    listed: dict[str, Any] = {"grids": {}, "mean": {}}
    tendencies = {key: _tendencies(table, among, columns[key]) for key in keys} if found else {}
    for name, rows, axes in found:
        task = table.words("task")[rows[0]]
        scored = {}
        for contender, values in columns.items():
            if not np.isfinite(values[rows]).all():
                continue
            others = sum(tau for other, tau in tendencies.get(contender, {}).items() if other != task)
            direction = -1.0 if others < 0 else 1.0
            scored[contender] = _scored(table, rows, direction * values[rows], list(axes.values()))
        scored["random order"] = _chance(table, rows, list(axes.values()))
        levels = {axis: int(level.max()) + 1 for axis, level in axes.items()}
        listed["grids"][name] = {"models": len(rows), "axes": levels, "scores": scored}
    for contender in (*columns, "random order"):
        per_grid = [grid["scores"][contender] for grid in listed["grids"].values() if contender in grid["scores"]]
        if per_grid:
            listed["mean"][contender] = {"grids": len(per_grid)} | {
                score: bootstrap(np.array([one[score] for one in per_grid if score in one]))
                for score in ("pgdl", "mean", "worst", "worst_axis", "resolved", "tau")
            }
    return listed


def _scored(table: Table, rows: Rows, values: Floats, axes: Sequence[Labels]) -> dict[str, float]:
    gap, trials = table.numbers("gap.accuracy")[rows], table.numbers("gap.test_samples")[rows].min()
    scores = {"pgdl": conditional_mutual_information(values, gap, axes), "tau": kendall(values, gap)}
    return {name: round(value, 4) for name, value in (scores | sign_errors(values, gap, axes, float(trials))).items()}


def _chance(table: Table, rows: Rows, axes: Sequence[Labels]) -> dict[str, float]:
    """Mean scores of measures that are random orders."""
    rng = np.random.default_rng(0)
    drawn = [_scored(table, rows, rng.permutation(len(rows)).astype(float), axes) for _ in range(_RANDOM_ORDERS)]
    return {name: round(float(np.mean([one[name] for one in drawn])), 4) for name in drawn[0]}


def _tendencies(table: Table, among: Mask, values: Floats) -> dict[str, float]:
    """By task, tau between a measure and the gap on last snapshots."""
    rows = np.flatnonzero(among & last_snapshots(table) & np.isfinite(values))
    tasks, gap = table.words("task")[rows], table.numbers("gap.accuracy")[rows]
    names, which = np.unique(tasks, return_inverse=True)
    return {str(name): kendall(values[rows][which == n], gap[which == n]) for n, name in enumerate(names)}


def _spread(table: Table, rows: Rows, gap: Floats) -> Floats:
    """Held-out gaps at their rows of the table, NaN elsewhere."""
    column = np.full(len(table), np.nan)
    column[rows] = gap
    return column


def _settings(levels: Sequence[Labels]) -> int:
    return int(np.unique(np.stack(levels), axis=1).shape[1])
