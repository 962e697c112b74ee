"""Scores and card of a predictor of one family on one data set: by run, for there are too few tasks to hold out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lightning_gengap.predictor import Predictor
from lightning_gengap.zoo.abilities import last_snapshots
from lightning_gengap.zoo.evaluation import BASELINES, hold_out
from lightning_gengap.zoo.fit import usable
from lightning_gengap.zoo.protocol import Mask, by_run
from lightning_gengap.zoo.resampling import rounded
from lightning_gengap.zoo.specifications import Specification
from lightning_gengap.zoo.table import Table

CONVERGED = 0.97


def run_scores(table: Table, specification: Specification) -> dict[str, Any]:
    """Held-out errors by run (ten folds), of the specification and the baselines on the same rows.

    Mean absolute errors in accuracy points and R2, over all snapshots and over the last ones of converged runs; and the
    coverage of the interval.
    """
    baselines = [replace(baseline, grid=specification.grid) for baseline in BASELINES]
    contenders = (specification, *baselines)
    among = np.logical_and.reduce([usable(table, contender) for contender in contenders])
    settled = last_snapshots(table) & (table.numbers("measure.train_accuracy") >= CONVERGED)
    listed: dict[str, Any] = {"rows": int(among.sum()), "runs": len(set(table.words("run")[among])), "by run": {}}
    for contender in contenders:
        held = hold_out(table, contender, by_run(table), among)
        actual = table.numbers("gap.accuracy")[held.rows]
        scores = {"all snapshots": _errors(held.gap, actual, np.ones(len(actual), bool))}
        if (converged := settled[held.rows]).sum() >= 5:
            scores["converged"] = _errors(held.gap, actual, converged)
        if contender is specification:
            scores["coverage"] = {"all": rounded(float(((actual >= held.lower) & (actual <= held.upper)).mean()))}
        listed["by run"][contender.name] = scores
    return listed


def _errors(gap: Any, actual: Any, chosen: Mask) -> dict[str, float | None]:
    error = gap[chosen] - actual[chosen]
    spread = float(((actual[chosen] - actual[chosen].mean()) ** 2).sum())
    r2 = 1 - float((error**2).sum()) / spread if spread > 0 else None
    return {
        "rows": float(chosen.sum()),
        "mae": rounded(100 * float(np.abs(error).mean())),
        "r2": None if r2 is None else rounded(r2),
    }


def group_card(predictor: Predictor) -> str:
    """Markdown: what it was fitted on, and its held-out errors beside the baselines."""
    facts, scores = predictor.provenance, predictor.scores
    lines = [
        "| held out by run | rows | error, points | R2 | rows, converged | error | R2 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, kinds in scores["by run"].items():
        cells = []
        for kind in ("all snapshots", "converged"):
            found = kinds.get(kind)
            cells += ["-"] * 3 if found is None else [f"{found['rows']:.0f}", f"{found['mae']:.1f}", _two(found["r2"])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    coverage = scores["by run"][predictor.name]["coverage"]["all"]
    parts = [
        f"# {predictor.name}",
        f"Predicts train minus test accuracy (fraction) of one family on one data set, at the small scale of the zoo "
        f"(1,200 to 1,500 training images of 16 x 16): {facts['snapshots']} snapshots of {facts['runs']} runs in "
        f"{facts['tasks']} tasks. Written by `zoo fit`.",
        "\n".join(lines),
        f"Converged: the last snapshot, where train accuracy is at least {CONVERGED}. The 90 % interval, calibrated "
        f"over runs, covers {coverage:.3f} of held-out runs of the same tasks; **nothing is known of other tasks**. "
        "For them use `default` or `images_v2`.",
    ]
    return "\n\n".join(parts) + "\n"


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
