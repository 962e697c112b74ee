"""What an estimate is worth with held-out samples, beside the prediction alone and the samples alone.

    python studies/evidence.py [pretrained_predictors/small_zoo_v3.csv.gz] [--predictor images_v3] [--locked]

Held-out samples are drawn for every run of the zoo: each is right or wrong at each epoch, and right as often as the
test says. One sample's correctness is correlated over the epochs of a run, as that of real ones: about 0.6 between
neighbouring snapshots, 0.45 between distant ones. The test accuracy itself has a sampling error, and the samples are
drawn around the true one. With --real they are taken out of the test samples instead, and the others judge.

m* is the number of held-out samples whose accuracy errs as much as the estimate, at the last snapshots of tasks with
2,000 test samples and more; "said" is the number whose deviation is that of the estimate. Intervals are by
resampling tasks.

The prediction is made without the task or without the source. Its scale is that of the other tasks or sources. Tasks
count alike. Abstentions are left out. Prints Markdown.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from contests import study_of, study_parser
from held_out_samples import Draw, real_samples, simulated_samples
from test_predictions import read

from lightning_gengap.predictors.evidence import believed
from lightning_gengap.predictors.observations import Observation
from lightning_gengap.predictors.parts import NORMAL_QUANTILE
from lightning_gengap.zoo.evaluate.abilities import last_snapshots
from lightning_gengap.zoo.evaluate.bootstrap import Score
from lightning_gengap.zoo.evaluate.equivalent_hold_out import HoldOuts
from lightning_gengap.zoo.fit.scales import Residuals, by_score, held_out_residuals
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.splits import SIBLINGS, Split, fold_of
from lightning_gengap.zoo.table import Floats, Mask, Rows, Table

SPLITS = ("by task", "leave one source out")
SIZES = (50, 100, 200, 500)
ENOUGH = 2000  # test samples of a task whose m* counts
ENOUGH_REAL = 1000  # test samples of a task of which some are held out
ALONE, OF_EPOCH, JOINED = (
    "held-out samples alone",
    "with the prediction of this epoch",
    "with all epochs so far",
)
HEADER = (
    "m",
    "estimate",
    "error (points)",
    "of last snapshots",
    "coverage of 90 %",
    "m* said",
    "m*",
    "over m* alone + m",
)


@dataclass(frozen=True)
class Estimates:
    """Test accuracies that are estimated for some rows, with their standard deviations."""

    accuracy: Floats
    deviation: Floats


@dataclass(frozen=True)
class Estimated:
    """Estimates of some rows by name, beside what judges them. See `Drawn`."""

    by_name: dict[str, Estimates]
    tested: Floats
    test_samples: Floats
    halves: Floats


def scales(table: Table, found: Residuals, split: str) -> Floats:
    """For each row the scale that fits the other groups: folds of tasks, data sets, or sources with their siblings."""
    tasks = table.words("task")[found.rows]
    if split == "by task":
        groups = fold_of(tasks, 10).astype(str)
    else:
        akin = SIBLINGS if split == "leave one source out" else {}
        groups = np.array([akin.get(name, name) for name in table.words("recipe.source")[found.rows].tolist()])
    scaled, scale = found.residual / found.deviation, np.ones(len(tasks))
    for group in set(groups.tolist()):
        own = groups == group
        if not own.all():
            scale[own] = by_score(scaled[~own], tasks[~own])
    return scale


def estimates(table: Table, found: Residuals, scale: Floats, samples: int, draw: Draw, seed: int) -> Estimated:
    """What the samples alone, with the prediction of the same epoch, and with all of the run so far estimate."""
    epochs, runs = table.numbers("epoch")[found.rows], table.codes("run")[found.rows]
    made = {name: Estimates(np.zeros(len(runs)), np.zeros(len(runs))) for name in (ALONE, OF_EPOCH, JOINED)}
    tested, test_samples, halves = np.zeros(len(runs)), np.zeros(len(runs)), np.zeros((2, len(runs)))
    for own in in_order(runs, epochs):
        drawn = draw(found.rows[own], samples, seed)
        tested[own], test_samples[own], halves[:, own] = drawn.tested, drawn.test_samples, drawn.halves
        spread = (drawn.right * samples + 0.5) / (samples + 1)
        made[ALONE].accuracy[own], made[ALONE].deviation[own] = drawn.right, np.sqrt(spread * (1 - spread) / samples)
        seen = [
            Observation(
                float(drawn.right[place]),
                float(found.predicted[row]),
                float(found.deviation[row]),
                samples,
                epoch=float(epochs[row]),
                source="held_out",
            )
            for place, row in enumerate(own)
        ]
        for place, row in enumerate(own):
            for name, known in ((OF_EPOCH, seen[place : place + 1]), (JOINED, seen[: place + 1])):
                after = believed(known, float(epochs[row]), float(found.deviation[row]), float(scale[row]))
                made[name].accuracy[row] = np.clip(found.predicted[row] + after.mean[0], 0, 1)
                made[name].deviation[row] = math.sqrt(after.variance[0])
    return Estimated(made, tested, test_samples, halves)


def in_order(runs: Rows, epochs: Floats) -> Iterator[Rows]:
    """The rows of each run, in the order of their epochs."""
    order = np.lexsort((epochs, runs))
    yield from np.split(order, np.flatnonzero(np.diff(runs[order])) + 1)


def line(
    table: Table, found: Residuals, said: Sequence[Estimated], name: str, of_sum: float
) -> tuple[list[str], float]:
    """The cells of one estimate, over all draws; and its m*. `of_sum` is the m* to compare with, NaN for none.

    An interval that knows of held-out samples is one for the true accuracy; the error of the test widens it. That
    of the prediction alone was fitted to tests, and has it already.
    """
    tasks, last = table.codes("task")[found.rows], last_snapshots(table)[found.rows]
    tested, n = (np.array([getattr(one, column) for one in said]) for column in ("tested", "test_samples"))
    accuracy, deviation = (
        np.array([getattr(one.by_name[name], column) for one in said]) for column in ("accuracy", "deviation")
    )
    errors = accuracy - tested
    noisy = np.sqrt(deviation**2 + (0.0 if math.isnan(of_sum) else tested * (1 - tested) / n))
    covered = (np.abs(errors) <= NORMAL_QUANTILE * noisy).mean(axis=0)
    enough = last & (n[0] >= ENOUGH)
    worth, stated, shown = math.nan, math.nan, "-"
    if enough.any():
        spread, stating = np.sqrt(accuracy * (1 - accuracy)).mean(axis=0), deviation.mean(axis=0)
        stated = (by_task(spread[enough], tasks[enough]) / by_task(stating[enough], tasks[enough])) ** 2
        flat_errors, flat_tested, flat_n = (column[:, enough].ravel() for column in (errors, tested, n))
        score = HoldOuts.of(flat_errors, flat_tested, flat_n, np.tile(tasks[enough], len(said))).equivalent()
        worth, shown = score.value, ranged_m(score)
    cells = [
        f"{100 * by_task(np.abs(errors).mean(axis=0), tasks):.2f}",
        f"{100 * by_task(np.abs(errors).mean(axis=0)[last], tasks[last]):.2f}",
        f"{by_task(covered, tasks):.2f}",
        "-" if math.isnan(stated) else f"{stated:.0f}",
        shown,
        "" if math.isnan(of_sum) or math.isnan(worth) else f"{worth / of_sum:.2f}",
    ]
    return cells, worth


def ranged_m(score: Score) -> str:
    """m* with its interval by resampling tasks."""
    value, low, high = score.listed() or [math.inf] * 3
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def by_task(values: Floats, tasks: Rows) -> float:
    """The mean over tasks of their means."""
    return float(np.average(values, weights=1 / np.bincount(tasks)[tasks]))


def worth(table: Table, found: Residuals, split: str, draws: int, draw: Draw) -> list[list[str]]:
    """The lines of one split: the prediction alone, and the estimates for each number of samples."""
    scale = scales(table, found, split)
    prior = {"prediction alone": Estimates(found.predicted, scale * found.deviation)}
    tested, n = (table.numbers(f"gap.test_{name}")[found.rows] for name in ("accuracy", "samples"))
    judged = Estimated(prior, tested, n, np.stack([tested, tested]))
    cells, alone = line(table, found, [judged], "prediction alone", math.nan)
    lines = [["0", "prediction alone", *cells]]
    for samples in SIZES:
        made = [estimates(table, found, scale, samples, draw, seed) for seed in range(draws)]
        for name in (ALONE, OF_EPOCH, JOINED):
            cells, _ = line(table, found, made, name, alone + samples)
            lines.append([str(samples), name, *cells])
    return lines


def held_out_of(options: argparse.Namespace, table: Table) -> tuple[Draw, Mask]:
    """How held-out samples are drawn, and the rows that have some: real ones where a file holds predictions."""
    if options.real is None:
        return simulated_samples(table), np.ones(len(table), bool)
    known = read(options.real)
    enough = [run for run, one in known.items() if len(one.labels) >= ENOUGH_REAL]
    return real_samples(table, known), np.isin(table.words("run"), enough)


def judged(splits: Iterable[Split], among: Mask) -> list[Split]:
    """The splits with only these rows held out; fits see all others."""
    return [(name, fitted, held & among) for name, fitted, held in splits]


def evidence_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of studies with held-out samples."""
    parser = study_parser(description)
    parser.add_argument("--draws", type=int, default=4, help="of held-out samples, for each run")
    parser.add_argument("--real", type=Path, help="predictions of test samples, by studies/test_predictions.py")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = evidence_parser(__doc__)
    parser.add_argument("--splits", nargs="+", default=SPLITS, help="as `gengap zoo evaluate` names them")
    options = parser.parse_args(arguments)
    study = study_of(options)
    table = study.setting.table
    draw, among = held_out_of(options, table)
    for split in options.splits:
        splits = judged(study.split_of[split], among)
        found = held_out_residuals(table, study.setting.specification, splits, study.allowed)
        tasks, runs = (len(np.unique(table.codes(column)[found.rows])) for column in ("task", "run"))
        scale = scales(table, found, split)
        print(f"\n## {split}: {tasks} tasks, {runs} runs, {len(found.rows)} snapshots; scale {np.median(scale):.2f}\n")
        print(markdown_table(HEADER, worth(table, found, split, options.draws, draw)))


if __name__ == "__main__":
    main()
