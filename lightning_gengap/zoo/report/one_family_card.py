"""The model card of a predictor of one family on one data set, written from its own scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.zoo.evaluate.abilities import CONVERGED
from lightning_gengap.zoo.evaluate.bootstrap import DRAWS
from lightning_gengap.zoo.evaluate.one_family import FEWEST_CONVERGED, KINDS
from lightning_gengap.zoo.report.markdown import ranged
from lightning_gengap.zoo.report.markdown import table as markdown_table

CAPTION = (
    "Left: held-out predictions with their 90 % intervals, the last snapshots of converged runs in orange. Middle: "
    "coverage of these intervals by train accuracy with 95 % intervals from draws of runs; for each part the number of "
    "rows and of their runs, and the mean width in points. The parts overlap, and those of fewer than "
    f"{FEWEST_CONVERGED} rows are left out. A dot at 1 without a line: every row lies inside, so that no draw can "
    "differ, which proves little where runs are few. Right: mean absolute contributions, as in the table below."
)


def one_family_card(predictor: Predictor, figure: str = "") -> str:
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
