"""How the scores depend on what is fitted: the number of runs, and the stage of training.

    python studies/learning_curve.py [pretrained_predictors/small_zoo_v3.csv.gz] [--predictor images_v3] [--locked]

Prints Markdown, and draws the errors over the number of runs to --figure FILE.png.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contests import Study, study_of, study_parser

from lightning_gengap.zoo.evaluate.abilities import last_snapshots
from lightning_gengap.zoo.evaluate.bootstrap import rounded
from lightning_gengap.zoo.evaluate.held_out import Setting
from lightning_gengap.zoo.evaluate.quick import hold_out_points, predicted_points
from lightning_gengap.zoo.fit.fit import enough
from lightning_gengap.zoo.fit.specifications import TRIVIAL
from lightning_gengap.zoo.report.figures import new_figure, require, save
from lightning_gengap.zoo.report.markdown import ranged
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.splits import Split

SIZES = (25, 50, 100, 200, 400, 800, 1600)
REPEATS = 5


def learning_curve(study: Study) -> dict[str, Any]:
    """Error, R2 and skill when only so many runs are fitted, drawn at random or as whole tasks; five seeded draws each.

    A size counts the runs of the development rows that are offered to a fold; the fold's own held-out runs, and their
    kin, are then taken from them.
    """
    listed: dict[str, Any] = {}
    setting = study.setting
    total = setting.table.count("run", setting.among)
    for split in ("by task", "leave one source out"):
        for drawn in ("runs", "tasks"):
            sizes = [size for size in SIZES if size < total] + [total]
            points = {str(size): _at(setting, study.split_of[split], drawn, size) for size in sizes}
            listed[f"{split}, {drawn} drawn"] = {size: point for size, point in points.items() if point is not None}
    return listed


def _at(setting: Setting, split: Sequence[Split], drawn: str, size: int) -> dict[str, Any] | None:
    table, actual, draws = setting.table, setting.table.numbers("gap.accuracy"), setting.resampling
    orders = [_order(setting, drawn, repeat) for repeat in range(REPEATS)]
    offered = [np.isin(table.words("run"), order[:size]) for order in orders]
    parts: dict[str, list[Any]] = {"own": [], "trivial": []}
    rows: list[Any] = []
    for _, fitted, held in split:
        # The same held-out rows at every size: a fold counts where all draws of this size can be fitted.
        if not (held & setting.among).any() or not all(enough(table, fitted & setting.among & few) for few in offered):
            continue
        rows.append(np.flatnonzero(held & setting.among))
        for key, specification in {"own": setting.specification, "trivial": TRIVIAL}.items():
            fold = [
                predicted_points(table, specification, fitted & setting.among & few, held & setting.among)
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


def fitted_stage(study: Study) -> dict[str, Any]:
    """Error on last snapshots, fitted to all snapshots or to last ones; and on earlier ones, fitted to last ones."""
    setting, table, draws = study.setting, study.setting.table, study.setting.resampling
    actual = table.numbers("gap.accuracy")
    last = last_snapshots(table)
    kinds = {"all": np.ones(len(table), bool), "last": last, "earlier": ~last}
    listed = {}
    for fitted_on, held_of in (("all", "last"), ("last", "last"), ("last", "earlier"), ("all", "earlier")):
        split = [
            (name, fitted & kinds[fitted_on], held & kinds[held_of]) for name, fitted, held in study.split_of["by task"]
        ]
        rows, gap = hold_out_points(table, setting.specification, split, setting.among)
        error = draws.mean(100 * np.abs(gap - actual[rows]), rows)
        listed[f"{held_of} snapshots, fitted on {fitted_on}"] = {"rows": len(rows), "mae": error.listed()}
    return listed


def curve_section(curve: Mapping[str, Any]) -> str:
    """Error, R2 and skill by the number of runs that are offered."""
    parts = []
    for name, points in curve.items():
        rows = [
            [
                *(size, str(p["rows"]), ranged(p["mae"], 1), ranged(p["trivial"], 1), f"{p['r2']:.2f}"),
                *(ranged(p["skill"], 2), f"{p['between draws'][0]:.1f} to {p['between draws'][1]:.1f}"),
            ]
            for size, p in points.items()
        ]
        header = ["runs offered", "rows", "error", "trivial", "R²", "skill", "error between draws of runs"]
        parts.append(f"{name.capitalize()}:\n\n" + markdown_table(header, rows))
    return "\n\n".join(parts)


def stage_section(stages: Mapping[str, Any]) -> str:
    """Error by the stage of training that is scored and fitted on."""
    rows = [[name, str(one["rows"]), ranged(one["mae"], 1)] for name, one in stages.items()]
    return markdown_table(["scored and fitted on", "rows", "error"], rows)


def draw(curve: Mapping[str, Any], name: str, file: Path) -> None:
    """Error over the number of runs, of the specification and of the trivial baseline, one panel per split."""
    figure = new_figure(8, 5)
    curves = {split: points for split, points in curve.items() if len(points) > 1}
    axes = figure.subplots(1, len(curves), sharey=True, squeeze=False).ravel()
    for axis, (split, points) in zip(axes, curves.items(), strict=True):
        sizes = [int(size) for size in points]
        for key, label in (("mae", name), ("trivial", "trivial")):
            values = np.array([point[key] for point in points.values()])
            line = axis.plot(sizes, values[:, 0], marker="o", markersize=3, label=label)
            axis.fill_between(sizes, values[:, 1], values[:, 2], alpha=0.2, color=line[0].get_color())
        axis.set_xscale("log")
        axis.set_xticks(sizes, [str(size) for size in sizes], fontsize=7, rotation=45)
        axis.minorticks_off()
        axis.set_title(split.replace(", ", ",\n"), fontsize=8)
        axis.grid(alpha=0.2)
    axes[0].legend(fontsize=7)
    axes[0].set_ylim(bottom=0)
    figure.supxlabel("runs offered to the fit")
    axes[0].set_ylabel("error (accuracy points)")
    save(figure, file)


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--figure", type=Path, help="a .png file to draw the learning curve to")
    options = parser.parse_args()
    if options.figure is not None:
        require()
    study = study_of(options)
    curve = learning_curve(study)
    print(curve_section(curve) + "\n")
    print(stage_section(fitted_stage(study)))
    if options.figure is not None and any(len(points) > 1 for points in curve.values()):
        draw(curve, study.setting.specification.name, options.figure)


if __name__ == "__main__":
    main()
