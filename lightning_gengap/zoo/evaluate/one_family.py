"""Scores and card of a predictor of one family on one data set: by run, for there are too few tasks to hold out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.zoo.evaluate.abilities import CONVERGED, last_snapshots
from lightning_gengap.zoo.evaluate.bootstrap import DRAWS, Resampling, rounded
from lightning_gengap.zoo.evaluate.failures import worst_runs
from lightning_gengap.zoo.evaluate.grids import axes_of
from lightning_gengap.zoo.evaluate.held_out import BASELINES, HeldOut, Setting, hold_out, part_of
from lightning_gengap.zoo.evaluate.regressors import Codes
from lightning_gengap.zoo.evaluate.splits import Mask, by_run
from lightning_gengap.zoo.fit.fit import fit, usable
from lightning_gengap.zoo.fit.ridge import transformed
from lightning_gengap.zoo.fit.specifications import Specification
from lightning_gengap.zoo.report.markdown import ranged
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.table import Table

FEWEST_CONVERGED, WORST = 5, 3
KINDS = ("all snapshots", "converged")
CAPTION = (
    "Left: held-out predictions with their 90 % intervals, the last snapshots of converged runs in orange. Middle: "
    "coverage of these intervals by train accuracy with 95 % intervals from draws of runs; for each part the number of "
    "rows and of their runs, and the mean width in points. The parts overlap, and those of fewer than "
    f"{FEWEST_CONVERGED} rows are left out. A dot at 1 without a line: every row lies inside, so that no draw can "
    "differ, which proves little where runs are few. Right: mean absolute contributions, as in the table below."
)


def scored_by_run(table: Table, specification: Specification) -> tuple[dict[str, Any], HeldOut]:
    """Held-out errors by run (ten folds), of the specification and the baselines on the same rows.

    Mean absolute and mean signed errors in accuracy points and R2, over all snapshots and over the last ones of
    converged runs; for the specification also coverage and mean width of the interval, mean absolute contributions and
    the worst runs. A score is [value, low, high] with a 95 % interval over runs.

    Returns:
        The scores, and the specification's predictions behind them.
    """
    baselines = [replace(baseline, grid=specification.grid) for baseline in BASELINES]
    contenders = (specification, *baselines)
    among = np.logical_and.reduce([usable(table, contender) for contender in contenders])
    settled = last_snapshots(table) & (table.numbers("measure.train_accuracy") >= CONVERGED)
    draws, samples = over_runs(table, among), table.numbers("measure.train_samples")[among]
    listed: dict[str, Any] = {
        "rows": int(among.sum()),
        "runs": len(set(table.words("run")[among])),
        "train samples": [int(samples.min()), int(samples.max())],
        "by run": {},
    }
    predictions = {c.name: hold_out(table, c, by_run(table), among) for c in contenders}
    for contender in contenders:
        held = predictions[contender.name]
        parts = {"all snapshots": held}
        if (converged := settled[held.rows]).sum() >= FEWEST_CONVERGED:
            parts["converged"] = part_of(held, converged)
        listed["by run"][contender.name] = {kind: _errors(table, draws, part) for kind, part in parts.items()}
        if contender is specification:
            listed["by run"][contender.name] |= _of_interval(table, draws, parts)
            setting = Setting(table, contenders, among, (), draws, Codes.of(table))
            listed["worst runs"] = _worst(setting, held)
    listed["contributions"] = contributions(table, fit(table, specification, among), among)
    return listed, predictions[specification.name]


def over_runs(table: Table, among: Mask) -> Resampling:
    """Draws of these rows' runs with replacement, whatever their tasks: there are one or two."""
    runs, run_of_row = np.unique(table.words("run"), return_inverse=True)
    own = np.unique(run_of_row[among])
    weights = np.zeros((DRAWS, len(runs)))
    weights[:, own] = np.random.default_rng(0).multinomial(len(own), np.full(len(own), 1 / len(own)), size=DRAWS)
    return Resampling(run_of_row.astype(np.int64), weights)


def contributions(table: Table, predictor: Predictor, rows: Mask) -> dict[str, float]:
    """By feature, the mean over rows of how far it moves the prediction from the fit's centre, in points (additive)."""
    return {
        f.name: rounded(
            100 * np.abs(f.coefficient * (transformed(f, table.numbers(f"measure.{f.name}")[rows]) - f.centre)).mean()
        )
        for f in predictor.features
    }


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


def group_card(predictor: Predictor, figure: str = "") -> str:
    """Markdown: what it was fitted on, its held-out errors beside the baselines, what it goes by, where it fails.

    Args:
        predictor: with the scores of `scored_by_run`.
        figure: path, relative to the card, of the figure of `group_figure.draw`, if there is one.
    """
    facts, scores = predictor.provenance, predictor.scores
    own = scores["by run"][predictor.name]
    fewest, most = (f"{count:,}" for count in scores["train samples"])
    samples = fewest if fewest == most else f"{fewest} to {most}"
    covered = "; ".join(
        f"{ranged(own['coverage'][kind], 3)} of {own[kind]['rows']} rows ({kind}; mean width "
        f"{ranged(own['width'][kind], 1)} points)"
        for kind in KINDS
        if kind in own["coverage"]
    )
    parts = [
        f"# {predictor.name}",
        f"Predicts train minus test accuracy (fraction) of one family on one data set, at the small scale of the zoo "
        f"({samples} training images): {facts['snapshots']} snapshots of {facts['runs']} runs in {facts['tasks']} "
        "tasks. Written by `zoo fit`.",
        f"## Held-out scores\n\nTen folds of whole runs, the other runs of the same tasks in the fit; errors in "
        f"accuracy points, brackets hold 95 % intervals from {DRAWS:,} draws of runs. Converged: the last snapshot, "
        f"where train accuracy is at least {CONVERGED}.\n\n" + _scores_table(scores["by run"]),
        f"The 90 % interval, calibrated over runs, covers {covered} in the same tasks; abstained: "
        f"{own['abstained']:.3f}. **Nothing is known of other tasks**: for them use `default`.",
        *([f"## Figure\n\n![{predictor.name}]({figure})\n\n" + CAPTION] if figure else []),
        "## Features\n\nMean absolute contribution: how far the feature moves the prediction from the fit's centre, in "
        "points.\n\n" + _features(predictor),
        "## Where it fails\n\n" + _failures(scores, predictor.name),
    ]
    return "\n\n".join(parts) + "\n"


def _scores_table(by_contender: Mapping[str, Any]) -> str:
    rows = []
    for name, kinds in by_contender.items():
        cells = [name]
        for kind in KINDS:
            found = kinds.get(kind)
            cells += (
                ["-"] * 3
                if found is None
                else [str(found["rows"]), ranged(found["mae"], 1), ranged(found["r2"], 2 if kind == KINDS[0] else 3)]
            )
        rows.append(cells)
    return markdown_table(["held out by run", "rows", "error", "R2", "rows, converged", "error", "R2"], rows)


def _features(predictor: Predictor) -> str:
    moved = predictor.scores["contributions"]
    rows = [
        [
            *(f.name, f.transform, f"{f.low:.3g} to {f.high:.3g}"),
            *(f"{100 * f.coefficient * f.deviation:+.1f}", f"{moved[f.name]:.1f}"),
        ]
        for f in sorted(predictor.features, key=lambda f: -moved[f.name])
    ]
    header = [
        "feature",
        "transform",
        "fitted range (transformed)",
        "points per deviation",
        "mean absolute contribution",
    ]
    return markdown_table(header, rows)


def _failures(scores: Mapping[str, Any], name: str) -> str:
    signed = "; ".join(
        f"{kind}: {ranged(scores['by run'][name][kind]['signed'], 1)}"
        for kind in KINDS
        if kind in scores["by run"][name]
    )
    lines = [f"Predicted minus actual gap in points, {signed}. The runs with the largest mean error:", ""]
    for one in scores["worst runs"]:
        chosen = ", ".join(f"{axis} {value}" for axis, value in one["hyperparameters"].items())
        misled = "" if one["misled"] is None else f"; misled most by `{one['misled'][0]}` ({one['misled'][1]:+.1f})"
        lines.append(
            f"* {one['error']:.1f} points over {one['snapshots']} snapshots: `{one['grid']}` ({chosen}); last one "
            f"predicted {one['predicted']:.1f}, actual {one['actual']:.1f} at train accuracy "
            f"{one['train accuracy']:.3f}{misled}"
        )
    return "\n".join(lines)
