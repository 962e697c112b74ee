"""Which penalty each group of measures deserves, and what a choice of the epoch by the prediction loses.

    python studies/groups.py [pretrained_predictors/third_zoo_v2.csv.gz] [--predictor default_v4]

Held out are data sets. Each group is tried alone, at 1, 10 and 100 times the penalty of the features and at an infinite
one, on the rows in which it is measured. Printed are the error of the last snapshots, m*, and Kendall's tau of
predicted and actual test accuracy within runs that turn. Then the test points that an epoch loses against the best one:
runs that turn are those whose last epoch is 1.5 points or more below the best on one half of the test samples; the
other half scores. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lightning_gengap.predictors.specification import Group, Specification
from lightning_gengap.zoo.evaluate.abilities import last_snapshots
from lightning_gengap.zoo.evaluate.equivalent_hold_out import HoldOuts
from lightning_gengap.zoo.evaluate.quick import hold_out_points
from lightning_gengap.zoo.evaluate.rank_scores import kendall
from lightning_gengap.zoo.fit.fit import usable
from lightning_gengap.zoo.fit.specifications import SPECIFICATIONS
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.splits import by_group
from lightning_gengap.zoo.table import Floats, Mask, Rows, Table, read

TABLE = Path(__file__).parents[1] / "pretrained_predictors" / "third_zoo_v2.csv.gz"
PENALTIES = (None, 100.0, 10.0, 1.0)
FEWEST_RUNS, FEWEST_TASKS = 200, 30  # below that a group is only tried
TURN = 0.015
ALLOWED = (0.0, 0.005, 0.01, 0.02)  # test accuracy, predicted
HEADER = ("group", "penalty", "runs", "tasks", "error (points)", "m*", "tau in runs that turn")


@dataclass(frozen=True)
class Run:
    """The rows of one run in the order of its epochs, and whether it turns."""

    rows: Rows
    turns: bool


def runs_of(table: Table, rows: Rows) -> list[Run]:
    """The runs of these rows that have five snapshots or more."""
    codes, epochs = table.codes("run"), table.numbers("epoch")
    first = table.numbers("gap.test_accuracy_first_half")
    found = []
    for code in np.unique(codes[rows]):
        own = rows[codes[rows] == code]
        own = own[np.argsort(epochs[own])]
        if len(own) >= 5:
            found.append(Run(own, bool(first[own].max() - first[own[-1]] >= TURN)))
    return found


def lost(table: Table, runs: Sequence[Run], said: Floats, keep: Callable[[Floats], int]) -> dict[bool, list[float]]:
    """Test points by which the kept epoch is below the best one, by whether the run turns."""
    first, second = (table.numbers(f"gap.test_accuracy_{half}_half") for half in ("first", "second"))
    points: dict[bool, list[float]] = {True: [], False: []}
    for run in runs:
        best = second[run.rows[int(np.argmax(first[run.rows]))]]
        points[run.turns].append(100 * float(best - second[run.rows[keep(said[run.rows])]]))
    return points


def highest(said: Floats) -> int:
    """The epoch with the highest prediction."""
    return int(np.argmax(said))


def last(said: Floats) -> int:
    """The last epoch."""
    return len(said) - 1


def last_unless(allowed: float) -> Callable[[Floats], int]:
    """The last epoch, or the highest where that is more than `allowed` above it."""
    return lambda said: last(said) if said.max() - said[-1] <= allowed else highest(said)


def predicted(table: Table, specification: Specification, among: Mask) -> tuple[Rows, Floats]:
    """The rows with a prediction by a fit without their data set, and the test accuracy that it says, NaN elsewhere."""
    rows, gaps = hold_out_points(table, specification, list(by_group(table, "recipe.source")), among)
    said = np.full(len(table), np.nan)
    said[rows] = table.numbers("measure.train_accuracy")[rows] - gaps
    return rows, said


def tried(table: Table, specification: Specification, group: Group) -> list[list[str]]:
    """A line for each penalty of one group, on the rows in which it is measured."""
    measured = np.isfinite([table.numbers(f"measure.{term.name}") for term in group.terms]).all(axis=0)
    among = usable(table, specification) & measured
    runs, tasks = table.count("run", among), table.count("task", among)
    enough = "" if runs >= FEWEST_RUNS and tasks >= FEWEST_TASKS else " (fewer than a group needs)"
    test, lines = table.numbers("gap.test_accuracy"), []
    for penalty in PENALTIES:
        alone = replace(specification, groups=(replace(group, penalty=penalty),))
        rows, said = predicted(table, alone, among)
        if not len(rows):
            return [[group.name, "-", f"{runs}{enough}", str(tasks), "-", "-", "-"]]
        final = rows[last_snapshots(table)[rows]]
        samples, codes = table.numbers("gap.test_samples"), table.codes("task")
        known = HoldOuts.of((said - test)[final], test[final], samples[final], codes[final])
        worth = known.equivalent().listed() or [float("inf")] * 3
        taus = [kendall(said[run.rows], test[run.rows]) for run in runs_of(table, rows) if run.turns]
        tau = f"{np.nanmean(taus):.3f}" if taus else "-"
        error = f"{100 * float(known.weights @ known.errors):.2f}"
        words = "infinite" if penalty is None else f"{penalty:g}"
        counted = [f"{runs}{enough}", str(tasks)]
        lines.append([group.name, words, *counted, error, "{:.0f} [{:.0f}, {:.0f}]".format(*worth), tau])
    return lines


def choices(table: Table, specification: Specification) -> list[list[str]]:
    """A line for each rule by which an epoch is kept."""
    rows, said = predicted(table, specification, usable(table, specification))
    runs = runs_of(table, rows)
    rules = {"last epoch": last, "highest prediction": highest}
    rules |= {f"last, unless {100 * one:g} points are lost": last_unless(one) for one in ALLOWED[1:]}
    lines = []
    for name, keep in rules.items():
        points = lost(table, runs, said, keep)
        cells = [f"{np.mean(points[turns]):.2f}" if points[turns] else "-" for turns in (True, False)]
        lines.append([name, *cells])
    counts = [sum(run.turns is turns for run in runs) for turns in (True, False)]
    return [["runs", *map(str, counts)], *lines]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path, default=TABLE)
    parser.add_argument("--predictor", default="default_v4", choices=sorted(SPECIFICATIONS))
    options = parser.parse_args(arguments)
    table, specification = read(options.table), SPECIFICATIONS[options.predictor]
    lines = [line for group in specification.groups for line in tried(table, specification, group)]
    print(markdown_table(HEADER, lines))
    print()
    print(markdown_table(("epoch kept", "runs that turn", "others"), choices(table, specification)))


if __name__ == "__main__":
    main()
