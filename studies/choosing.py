"""What is lost, and what is said, where an epoch or a run is chosen by an estimate with held-out samples.

    python studies/choosing.py [pretrained_predictors/third_zoo_v2.csv.gz] [--predictor default_v4] [--real FILE]

For each number of held-out samples, by each of three estimates (the prediction alone, the samples alone, both):

* Kendall's tau with the test accuracy, of the last snapshots of a task that has three runs or more, and within runs;
* the test points by which the epoch with the highest estimate is below the best one, for runs that turn and others:
  one half of the test samples marks the best epoch and the turn (1.5 points), the other half scores;
* at that epoch, how much too high the estimate is (its optimism) and how often its interval of 90 % covers.

The prediction is made without the data set. Samples are drawn, or real with --real, as in `studies/evidence.py`. Tasks
count alike. Prints Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from contests import study_of
from evidence import (
    ALONE,
    JOINED,
    Estimated,
    Estimates,
    by_task,
    estimates,
    evidence_parser,
    held_out_of,
    in_order,
    scales,
)
from groups import TURN
from held_out_samples import Draw

from lightning_gengap.predictors.parts import NORMAL_QUANTILE
from lightning_gengap.zoo.evaluate.rank_scores import kendall
from lightning_gengap.zoo.fit.scales import Residuals, held_out_residuals
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.splits import by_group
from lightning_gengap.zoo.table import Floats, Rows, Table

SIZES = (50, 100, 200)
FEWEST_SNAPSHOTS, FEWEST_RUNS = 5, 3
PRIOR, LAST = "prediction alone", "last epoch"
HEADER = (
    "m",
    "chosen by",
    "tau within tasks",
    "tau within runs that turn / others",
    "points lost, runs that turn / others",
    "too high at the chosen epoch (points)",
    "coverage there",
)


@dataclass(frozen=True)
class Choice:
    """Of one run by one estimate: what the chosen epoch loses, and what is said of it."""

    task: int
    turns: bool
    tau: float
    lost: float
    too_high: float
    covered: float


def choices(found: Residuals, codes: Mapping[str, Rows], epochs: Floats, made: Estimated, name: str) -> list[Choice]:
    """One for each run that has five snapshots; `LAST` chooses the last one by the prediction alone."""
    said = made.by_name[PRIOR if name == LAST else name]
    first, second = made.halves
    chosen = []
    for own in in_order(codes["run"], epochs):
        if len(own) < FEWEST_SNAPSHOTS:
            continue
        best, place = own[np.argmax(first[own])], own[-1 if name == LAST else np.argmax(said.accuracy[own])]
        of_test = (
            0.0 if name in (PRIOR, LAST) else made.tested[place] * (1 - made.tested[place]) / made.test_samples[place]
        )
        error = float(said.accuracy[place] - made.tested[place])
        chosen.append(
            Choice(
                task=int(codes["task"][own[0]]),
                turns=bool(first[own].max() - first[own[-1]] >= TURN),
                tau=kendall(said.accuracy[own], made.tested[own]),
                lost=100 * float(second[best] - second[place]),
                too_high=100 * error,
                covered=float(abs(error) <= NORMAL_QUANTILE * np.hypot(said.deviation[place], of_test**0.5)),
            )
        )
    return chosen


def tau_within_tasks(codes: Mapping[str, Rows], epochs: Floats, made: Estimated, name: str) -> list[float]:
    """Of the last snapshots of each task that has enough runs."""
    last = np.array([own[-1] for own in in_order(codes["run"], epochs)])
    said, tasks = made.by_name[name].accuracy, codes["task"][last]
    parts = [last[tasks == task] for task in np.unique(tasks)]
    return [kendall(said[part], made.tested[part]) for part in parts if len(part) >= FEWEST_RUNS]


def cells(
    found: Residuals, codes: Mapping[str, Rows], epochs: Floats, made: Sequence[Estimated], name: str
) -> list[str]:
    """Of one estimate over all draws."""
    every = [one for draw in made for one in choices(found, codes, epochs, draw, name)]
    parts = [[one for one in every if one.turns is turns] for turns in (True, False)]
    taus, lost = (
        " / ".join(f"{_mean([getattr(one, field) for one in part], part):.2f}" for part in parts)
        for field in ("tau", "lost")
    )
    if name == LAST:
        return ["", "", lost, "", ""]
    of_tasks = np.nanmean([tau for draw in made for tau in tau_within_tasks(codes, epochs, draw, name)])
    too_high, covered = (_mean([getattr(one, field) for one in every], every) for field in ("too_high", "covered"))
    return [f"{of_tasks:.2f}", taus, lost, f"{too_high:+.2f}", f"{covered:.2f}"]


def _mean(values: Sequence[float], of: Sequence[Choice]) -> float:
    """Over tasks of the means of their runs; undefined taus are left out."""
    known = [place for place, value in enumerate(values) if np.isfinite(value)]
    if not known:
        return float("nan")
    tasks = np.unique([of[place].task for place in known], return_inverse=True)[1]
    return by_task(np.array(values)[known], tasks)


def lines(table: Table, found: Residuals, draws: int, draw: Draw) -> list[list[str]]:
    """A line for each number of samples and estimate."""
    scale = scales(table, found, "leave one data set out")
    codes = {name: table.codes(name)[found.rows] for name in ("run", "task")}
    epochs = table.numbers("epoch")[found.rows]
    prior = Estimates(found.predicted, scale * found.deviation)
    made = {}
    for samples in SIZES:
        drawn = [estimates(table, found, scale, samples, draw, seed) for seed in range(draws)]
        made[samples] = [
            Estimated({**one.by_name, PRIOR: prior}, one.tested, one.test_samples, one.halves) for one in drawn
        ]
    first = made[SIZES[0]]
    listed = [["0", name, *cells(found, codes, epochs, first, name)] for name in (LAST, PRIOR)]
    return listed + [
        [str(samples), name, *cells(found, codes, epochs, drawn, name)]
        for samples, drawn in made.items()
        for name in (ALONE, JOINED)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    options = evidence_parser(__doc__).parse_args(arguments)
    study = study_of(options)
    table = study.setting.table
    draw, among = held_out_of(options, table)
    splits = by_group(table, "recipe.source")
    found = held_out_residuals(table, study.setting.specification, splits, study.allowed & among)
    tasks, runs = (len(np.unique(table.codes(column)[found.rows])) for column in ("task", "run"))
    print(f"{tasks} tasks, {runs} runs, {len(found.rows)} snapshots\n")
    print(markdown_table(HEADER, lines(table, found, options.draws, draw)))


if __name__ == "__main__":
    main()
