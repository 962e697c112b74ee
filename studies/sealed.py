"""Score a bundled predictor on the sealed part of its table, once. The ledger refuses a second time.

    python studies/sealed.py pretrained_predictors/third_zoo_v2.csv.gz --predictor default_v4

Sealed are data sets and architectures that no fit and no choice has seen; docs/protocol.md says which, and how they
were drawn. Printed are the error of the test accuracy in points, how much too large the gap is, m* and the coverage of
the interval of 90 %, beside the two lines without a fit: for all sealed runs, and apart for those of sealed data sets
and of sealed architectures; and the test points that an epoch loses, as in `studies/groups.py`. Tasks count alike.
Snapshots on which the predictor abstains are counted and left out.

    python studies/sealed.py pretrained_predictors/third_zoo_v2.csv.gz --predictor default_v4 --held-out

scores the estimate with held-out samples instead, which are drawn as in `studies/evidence.py`, and --comparison says
how good the probability is that one of two runs is better, as `studies/comparison.py` does. Each has a line of its own
in the ledger. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from comparison import HEADER as COMPARED_HEADER
from comparison import Zoo
from comparison import lines as compared_lines
from evidence import ALONE, JOINED, SIZES, Estimated, Estimates, by_task, estimates, line, ranged_m
from evidence import HEADER as HELD_OUT_HEADER
from groups import highest, last, lost, runs_of
from held_out_samples import simulated_samples

from lightning_gengap.predictors.files import load_predictor
from lightning_gengap.predictors.observations import Kin
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.zoo.evaluate.abilities import last_snapshots
from lightning_gengap.zoo.evaluate.equivalent_hold_out import HoldOuts
from lightning_gengap.zoo.evaluate.plain_lines import anchor_line, frozen_line
from lightning_gengap.zoo.fit.fit import predict_rows
from lightning_gengap.zoo.fit.scales import Residuals
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.sealed import opened_once, sealed_sources
from lightning_gengap.zoo.table import Floats, Mask, Rows, Table, read

LEDGER = Path(__file__).parents[1] / "pretrained_predictors" / "opened.tsv"
HEADER = ("rows", "contender", "tasks", "runs", "error (points)", "bias of the gap", "m*", "coverage")


def has_learned_enough(table: Table, predictor: Predictor, rows: Mask) -> Mask:
    """Those of the rows on which the predictor does not abstain."""
    kept = rows.copy()
    kept[rows] = ~predict_rows(predictor, table, rows).abstained
    return kept


def lines(table: Table, predictor: Predictor, rows: Mask) -> list[list[str]]:
    """A line for each part of the rows and each contender."""
    said = predict_rows(predictor, table, rows)
    accuracy, test = (table.numbers(name)[rows] for name in ("measure.train_accuracy", "gap.test_accuracy"))
    actual = accuracy - test
    inside = (said.lower <= actual) & (actual <= said.upper)
    of_data = np.isin(table.words("recipe.source")[rows], sorted(sealed_sources()))
    final = last_snapshots(table)[rows]
    parts = {
        "last snapshots": final,
        "... of sealed data sets": final & of_data,
        "... of sealed architectures": final & ~of_data,
        "all snapshots": np.ones(len(final), bool),
    }
    contenders = {
        predictor.name: said.gap,
        "frozen line": frozen_line(table, rows),
        "best reference alone": anchor_line(table, rows),
    }
    samples, tasks, runs = table.numbers("gap.test_samples")[rows], table.codes("task")[rows], table.codes("run")[rows]
    listed = []
    for part, among in parts.items():
        for name, gap in contenders.items():
            own = among & np.isfinite(gap)
            if not own.any():
                continue
            codes = np.unique(tasks[own], return_inverse=True)[1]
            known = HoldOuts.of((accuracy - gap - test)[own], test[own], samples[own], codes)
            listed.append(
                [
                    part,
                    name,
                    str(len(np.unique(codes))),
                    str(len(np.unique(runs[own]))),
                    f"{100 * float(known.weights @ known.errors):.2f}",
                    f"{100 * by_task((gap - actual)[own], codes):+.2f}",
                    ranged_m(known.equivalent()),
                    f"{by_task(inside[own].astype(float), codes):.2f}" if name == predictor.name else "",
                ]
            )
    return listed


def kept_epochs(table: Table, predictor: Predictor, rows: Mask) -> list[list[str]]:
    """What the last epoch loses, and the one with the highest prediction."""
    said = np.full(len(table), np.nan)
    said[rows] = table.numbers("measure.train_accuracy")[rows] - predict_rows(predictor, table, rows).gap
    runs = runs_of(table, np.flatnonzero(rows))
    counts = [sum(run.turns is turns for run in runs) for turns in (True, False)]
    listed = [["runs", *map(str, counts)]]
    for name, keep in (("last epoch", last), ("highest prediction", highest)):
        points = lost(table, runs, said, keep)
        listed.append([name, *(f"{np.mean(points[turns]):.2f}" if points[turns] else "-" for turns in (True, False))])
    return listed


def residuals_of(table: Table, predictor: Predictor, rows: Mask) -> tuple[Residuals, Floats]:
    """What the bundled predictor misses in these rows, and the scale of its deviations, which is that of their kind."""
    said, places = predict_rows(predictor, table, rows), np.flatnonzero(rows)
    accuracy, tested = (table.numbers(name)[rows] for name in ("measure.train_accuracy", "gap.test_accuracy"))
    predicted = accuracy - said.gap
    found = Residuals(places, predicted, said.deviation, tested - predicted)
    return found, np.full(len(places), predictor.scales.kind)


def compared_pairs(table: Table, predictor: Predictor, rows: Mask, draws: int = 6) -> list[list[str]]:
    """A line for each number of held-out samples and kind of pair: how good the stated probability is."""
    zoo = Zoo.of(table, *residuals_of(table, predictor, rows))
    kinds: dict[Kin, Rows] = {
        "task": zoo.pairs_of_runs(np.random.default_rng(0)),
        "run": zoo.pairs_of_epochs(np.random.default_rng(0)),
    }
    return [
        [f"{len(pairs)} of one {same}", *cells]
        for same, pairs in kinds.items()
        if len(pairs)
        for cells in compared_lines(zoo, pairs, same, draws)
    ]


def with_held_out(table: Table, predictor: Predictor, rows: Mask, draws: int = 8) -> list[list[str]]:
    """A line for each number of held-out samples: the prediction of the bundled predictor, these samples, and both."""
    found, scale = residuals_of(table, predictor, rows)
    tested = table.numbers("gap.test_accuracy")[rows]
    prior = {"prediction alone": Estimates(found.predicted, scale * found.deviation)}
    judged = Estimated(prior, tested, table.numbers("gap.test_samples")[rows], np.stack([tested, tested]))
    cells, alone = line(table, found, [judged], "prediction alone", float("nan"))
    listed = [["0", "prediction alone", *cells]]
    for samples in SIZES:
        made = [estimates(table, found, scale, samples, simulated_samples(table), seed) for seed in range(draws)]
        listed += [
            [str(samples), name, *line(table, found, made, name, alone + samples)[0]] for name in (ALONE, JOINED)
        ]
    return listed


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--predictor", required=True)
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--held-out", action="store_true", help="score the estimate with held-out samples")
    what.add_argument("--comparison", action="store_true", help="score which of two runs is better")
    options = parser.parse_args(arguments)
    table, predictor = read(options.table), load_predictor(options.predictor)
    suffix = " with held-out samples" if options.held_out else " in comparisons" if options.comparison else ""
    scored = f"{predictor.name}{suffix}"
    rows = opened_once(table, scored, options.ledger)
    learned = has_learned_enough(table, predictor, rows)
    left_out = int((rows & ~learned).sum())
    print(f"{int(rows.sum())} sealed snapshots; the predictor abstains on {left_out} of them, which are left out.\n")
    if options.held_out:
        print(markdown_table(HELD_OUT_HEADER, with_held_out(table, predictor, learned)))
        return
    if options.comparison:
        print(markdown_table(("pairs", *COMPARED_HEADER), compared_pairs(table, predictor, learned)))
        return
    print(markdown_table(HEADER, lines(table, predictor, learned)))
    print()
    print(markdown_table(("epoch kept", "runs that turn", "others"), kept_epochs(table, predictor, learned)))


if __name__ == "__main__":
    main()
