"""What an estimate errs with so many held-out samples, by kind of data and number of training samples; and a picture.

    python studies/evidence_by_kind.py [--figure docs/evidence.png] [--draws 8]

The predictions of `images_v5` on images and of `default_v4` on tables and texts are made without the data set. Held-out
samples are drawn as in `studies/evidence.py`, or real with --real (tables and texts). The error is that of the last
snapshots in accuracy points; tasks count alike; intervals are by resampling tasks. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from contests import Study
from evidence import ALONE, JOINED, by_task, estimates, held_out_of, judged, scales
from held_out_samples import Draw

from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.zoo.evaluate.abilities import last_snapshots
from lightning_gengap.zoo.fit.scales import Residuals, held_out_residuals
from lightning_gengap.zoo.kinds import kind_of_data
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.splits import by_group
from lightning_gengap.zoo.table import Floats, Mask, Rows, read

FOLDER = Path(__file__).parents[1] / "pretrained_predictors"
SOURCES = (("images_v5", "image_zoo_v2.csv.gz"), ("default_v4", "third_zoo_v2.csv.gz"))
SIZES = (50, 100, 200, 500)
LARGE = 2000  # training samples
FEWEST_TASKS = 3
BOOTSTRAPS = 1000
HEADER = ("data", "training samples", "tasks", "m = 0", *(f"m = {size}" for size in SIZES))


@dataclass(frozen=True)
class Part:
    """Errors in points of the last snapshots of one kind: shape (rows, 1 + sizes), and of the samples alone."""

    kind: str
    size: str
    tasks: Rows
    joined: Floats
    alone: Floats


def parts_of(name: str, path: Path, draws: int, options: argparse.Namespace) -> Iterator[Part]:
    """The kinds of one table, each with small and large training sets apart."""
    table, predictor = read(path), load_predictor(name)
    study = Study.of(table, predictor.specification, locked=True)
    draw, among = held_out_of(options, table)
    splits = judged(by_group(table, "recipe.source"), among)
    found = held_out_residuals(table, predictor.specification, splits, study.allowed)
    last = last_snapshots(table)[found.rows]
    joined, alone = errors_of(study, found, draw, draws)
    kinds, tasks = kind_of_data(table)[found.rows], table.codes("task")[found.rows]
    large = table.numbers("measure.train_samples")[found.rows] >= LARGE
    for kind in sorted(set(kinds.tolist())):
        for words, chosen in ((f"below {LARGE}", ~large), (f"{LARGE} and more", large)):
            own: Mask = last & chosen & (kinds == kind)
            if len(np.unique(tasks[own])) >= FEWEST_TASKS:
                yield Part(f"{kind}s", words, tasks[own], joined[own], alone[own])


def errors_of(study: Study, found: Residuals, draw: Draw, draws: int) -> tuple[Floats, Floats]:
    """Absolute errors in points: with 0 and more held-out samples, and of the samples alone."""
    table = study.setting.table
    scale = scales(table, found, "leave one data set out")
    joined, alone = [100 * np.abs(found.residual)], []
    for samples in SIZES:
        made = [estimates(table, found, scale, samples, draw, seed) for seed in range(draws)]
        for name, errors in ((JOINED, joined), (ALONE, alone)):
            errors.append(100 * np.mean([np.abs(one.by_name[name].accuracy - one.tested) for one in made], axis=0))
    return np.stack(joined, axis=1), np.stack(alone, axis=1)


def means(part: Part, errors: Floats) -> Floats:
    """The mean over tasks and the ends of its 95 % interval, shape (3, columns)."""
    names, place = np.unique(part.tasks, return_inverse=True)
    of_task = np.stack([errors[place == code].mean(axis=0) for code in range(len(names))])
    drawn = np.random.default_rng(0).integers(0, len(names), (BOOTSTRAPS, len(names)))
    low, high = np.quantile(of_task[drawn].mean(axis=1), [0.025, 0.975], axis=0)
    return np.stack([of_task.mean(axis=0), low, high])


def line(part: Part) -> list[str]:
    """The cells of one part: with the prediction, and in brackets the samples alone."""
    middle, low, high = means(part, part.joined)
    of_samples = [by_task(column, np.unique(part.tasks, return_inverse=True)[1]) for column in part.alone.T]
    cells = [f"{middle[0]:.1f} [{low[0]:.1f}, {high[0]:.1f}]"]
    cells += [f"{value:.1f} ({alone:.1f})" for value, alone in zip(middle[1:], of_samples, strict=True)]
    return [part.kind, part.size, str(len(np.unique(part.tasks))), *cells]


def draw_figure(parts: Sequence[Part], path: Path) -> None:
    """Error against held-out samples for each part, with the prediction and without."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.2), layout="constrained")
    panels = figure.subplots(2, (len(parts) + 1) // 2, sharey=True, sharex=True, squeeze=False).ravel()
    places = [25.0, *SIZES]  # none are drawn at 25, on a logarithmic axis
    for panel, part in zip(panels, parts, strict=False):
        middle, low, high = means(part, part.joined)
        panel.fill_between(places, low, high, alpha=0.25, color="tab:blue", linewidth=0)
        panel.plot(places, middle, "o-", color="tab:blue", label="prediction and samples")
        panel.plot(SIZES, means(part, part.alone)[0], "s--", color="tab:gray", label="samples alone")
        panel.set_xscale("log")
        panel.set_xticks(places, ["none", *map(str, SIZES)])
        panel.minorticks_off()
        panel.set_title(f"{part.kind}, n {part.size}", fontsize=10)
        panel.set_ylim(0)
        panel.grid(alpha=0.3)
    for panel in panels[len(parts) :]:
        panel.remove()
    panels[0].legend(fontsize=8)
    figure.supxlabel("held-out samples")
    figure.supylabel("mean error of the test accuracy (points)")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=8, help="of held-out samples, for each run")
    parser.add_argument("--real", type=Path, help="predictions of test samples, by studies/test_predictions.py")
    parser.add_argument("--figure", type=Path, help="a .png file")
    options = parser.parse_args(arguments)
    given = SOURCES if options.real is None else SOURCES[1:]
    parts = [part for name, file in given for part in parts_of(name, FOLDER / file, options.draws, options)]
    print(markdown_table(HEADER, [line(part) for part in parts]))
    if options.figure is not None:
        draw_figure(parts, options.figure)


if __name__ == "__main__":
    main()
