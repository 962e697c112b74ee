"""What is lost, and what is said, where an epoch or a run is chosen by an estimate with held-out samples.

    python studies/choosing.py [pretrained_predictors/third_zoo_v2.csv.gz] [--predictor default_v4] [--real FILE]

For each number of held-out samples, by each of three estimates (the prediction alone, the samples alone, both):

* Kendall's tau with the test accuracy, of the last snapshots of a task that has three runs or more, and within runs;
* the test points by which the epoch with the highest estimate is below the best one, for runs that turn and others:
  one half of the test samples marks the best epoch and the turn (1.5 points), the other half scores;
* at that epoch, how much too high the estimate is, by how much it is expected to be (`optimism`), and how often its
  interval of 90 % covers: as it was shown then, and with the choice allowed for, as `GapMonitor.best` states it.

A task's runs are also put in the order of `compare`, which knows that two predictions of a task miss alike; for real
samples alone, as drawn ones are not drawn for all runs of a task together.

The prediction is made without the data set. Samples are drawn, or real with --real, as in `studies/evidence.py`. Tasks
count alike. Prints Markdown.
"""

from __future__ import annotations

import math
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
    judged,
    scales,
)
from groups import TURN
from held_out_samples import Draw, RealDraw, real_answers
from test_predictions import read

from lightning_gengap.predictors.choice import optimism
from lightning_gengap.predictors.comparison import Answers, Contender, Standing
from lightning_gengap.predictors.comparison import in_order as best_first
from lightning_gengap.predictors.observations import HELD_OUT, Observation
from lightning_gengap.predictors.parts import NORMAL_QUANTILE
from lightning_gengap.zoo.evaluate.rank_scores import kendall
from lightning_gengap.zoo.fit.scales import Residuals, held_out_residuals
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.splits import by_group
from lightning_gengap.zoo.table import Floats, Rows, Table

SIZES = (50, 100, 200)
FEWEST_SNAPSHOTS, FEWEST_RUNS = 5, 3
PRIOR, LAST, COMPARED = "prediction alone", "last epoch", "`compare`"
HEADER = (
    "m",
    "chosen by",
    "tau within tasks",
    "tau within runs that turn / others",
    "points lost, runs that turn / others",
    "too high at the chosen epoch (points)",
    "expected",
    "coverage there",
    "with the choice allowed for",
)


@dataclass(frozen=True)
class Known:
    """What was observed on so many held-out samples at every row of `found`.

    Attributes:
        answers: which of them each run's last snapshot has right, by its row; empty for drawn samples.
    """

    found: Residuals
    epochs: Floats
    scale: Floats
    samples: int
    answers: Mapping[int, Answers]

    def observations(self, made: Estimated, rows: Rows) -> list[Observation]:
        """Of these rows."""
        right, of = made.by_name[ALONE].accuracy, self.found
        return [
            Observation(
                accuracy=float(right[row]),
                predicted=float(of.predicted[row]),
                deviation=float(of.deviation[row]),
                samples=self.samples,
                epoch=float(self.epochs[row]),
                source=HELD_OUT,
            )
            for row in rows
        ]

    def contender(self, made: Estimated, rows: Rows) -> Contender:
        """The last of these rows of one run, with all that was observed in it."""
        last, of = int(rows[-1]), self.found
        predicted, deviation = float(of.predicted[last]), float(of.deviation[last])
        epoch, answers = float(self.epochs[last]), self.answers.get(last)
        standing = Standing("", 2, predicted, deviation, float(self.scale[last]), epoch=epoch, answers=answers)
        return Contender(standing, tuple(self.observations(made, rows)))


@dataclass(frozen=True)
class Choice:
    """Of one run by one estimate: what the chosen epoch loses, and what is said of it."""

    task: int
    turns: bool
    tau: float
    lost: float
    too_high: float
    expected: float
    covered: float
    covered_after_choice: float


def choices(
    found: Residuals, codes: Mapping[str, Rows], epochs: Floats, made: Estimated, name: str, known: Known
) -> list[Choice]:
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
        lucky = optimism(known.observations(made, own), float(known.scale[place])) if name == JOINED else 0.0
        chosen.append(
            Choice(
                task=int(codes["task"][own[0]]),
                turns=bool(first[own].max() - first[own[-1]] >= TURN),
                tau=kendall(said.accuracy[own], made.tested[own]),
                lost=100 * float(second[best] - second[place]),
                too_high=100 * error,
                expected=100 * lucky,
                covered=float(abs(error) <= NORMAL_QUANTILE * math.hypot(said.deviation[place], of_test**0.5)),
                covered_after_choice=float(
                    abs(error) <= NORMAL_QUANTILE * math.hypot(said.deviation[place], of_test**0.5, lucky)
                ),
            )
        )
    return chosen


def tau_within_tasks(
    codes: Mapping[str, Rows], epochs: Floats, made: Estimated, name: str, known: Known
) -> list[float]:
    """Of the last snapshots of each task that has enough runs."""
    runs = {int(own[-1]): own for own in in_order(codes["run"], epochs)}
    last = np.array(list(runs))
    parts = [last[codes["task"][last] == task] for task in np.unique(codes["task"][last])]
    taus = []
    for part in (part for part in parts if len(part) >= FEWEST_RUNS):
        if name == COMPARED:
            said = np.zeros(len(part))
            said[best_first([known.contender(made, runs[int(row)]) for row in part])] = -np.arange(len(part))
        else:
            said = made.by_name[name].accuracy[part]
        taus.append(kendall(said, made.tested[part]))
    return taus


def cells(
    found: Residuals,
    codes: Mapping[str, Rows],
    epochs: Floats,
    made: Sequence[tuple[Estimated, Known]],
    name: str,
) -> list[str]:
    """Of one estimate over all draws."""
    tau = ""
    if name != LAST:
        tau = (
            f"{np.nanmean([t for draw, known in made for t in tau_within_tasks(codes, epochs, draw, name, known)]):.2f}"
        )
    if name == COMPARED:
        return [tau, *[""] * 6]
    every = [one for draw, known in made for one in choices(found, codes, epochs, draw, name, known)]
    parts = [[one for one in every if one.turns is turns] for turns in (True, False)]
    taus, lost = (
        " / ".join(f"{_mean([getattr(one, field) for one in part], part):.2f}" for part in parts)
        for field in ("tau", "lost")
    )
    if name == LAST:
        return ["", "", lost, "", "", "", ""]
    fields = ("too_high", "expected", "covered", "covered_after_choice")
    too_high, expected, covered, after = (_mean([getattr(one, field) for one in every], every) for field in fields)
    chosen = [f"{expected:+.2f}", f"{covered:.2f}", f"{after:.2f}"] if name == JOINED else ["", f"{covered:.2f}", ""]
    return [tau, taus, lost, f"{too_high:+.2f}", *chosen]


def _mean(values: Sequence[float], of: Sequence[Choice]) -> float:
    """Over tasks of the means of their runs; undefined taus are left out."""
    known = [place for place, value in enumerate(values) if np.isfinite(value)]
    if not known:
        return float("nan")
    tasks = np.unique([of[place].task for place in known], return_inverse=True)[1]
    return by_task(np.array(values)[known], tasks)


def lines(table: Table, found: Residuals, draws: int, draw: Draw, real: RealDraw | None = None) -> list[list[str]]:
    """A line for each number of samples and estimate."""
    scale = scales(table, found, "leave one data set out")
    codes = {name: table.codes(name)[found.rows] for name in ("run", "task")}
    epochs = table.numbers("epoch")[found.rows]
    last = [int(own[-1]) for own in in_order(codes["run"], epochs)]
    prior = Estimates(found.predicted, scale * found.deviation)
    made: dict[int, list[tuple[Estimated, Known]]] = {}
    for samples in SIZES:
        made[samples] = []
        for seed in range(draws):
            one = estimates(table, found, scale, samples, draw, seed)
            answers = (
                {}
                if real is None
                else {row: Answers.of("shared", real(found.rows[[row]], samples, seed).right[0]) for row in last}
            )
            estimated = Estimated({**one.by_name, PRIOR: prior}, one.tested, one.test_samples, one.halves)
            made[samples].append((estimated, Known(found, epochs, scale, samples, answers)))
    first = made[SIZES[0]]
    listed = [["0", name, *cells(found, codes, epochs, first, name)] for name in (LAST, PRIOR)]
    return listed + [
        [str(samples), name, *cells(found, codes, epochs, drawn, name)]
        for samples, drawn in made.items()
        for name in (ALONE, JOINED, *([] if real is None else [COMPARED]))
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    options = evidence_parser(__doc__).parse_args(arguments)
    study = study_of(options)
    table = study.setting.table
    draw, among = held_out_of(options, table)
    splits = judged(by_group(table, "recipe.source"), among)
    found = held_out_residuals(table, study.setting.specification, splits, study.allowed)
    tasks, runs = (len(np.unique(table.codes(column)[found.rows])) for column in ("task", "run"))
    print(f"{tasks} tasks, {runs} runs, {len(found.rows)} snapshots\n")
    real = None if options.real is None else real_answers(table, read(options.real))
    print(markdown_table(HEADER, lines(table, found, options.draws, draw, real)))


if __name__ == "__main__":
    main()
