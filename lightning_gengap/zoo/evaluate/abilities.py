"""What held-out predictions are good for: the order within a task, the turn within a run, each stage of training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.zoo.evaluate.bootstrap import Resampling, Score, bootstrap, over_groups
from lightning_gengap.zoo.evaluate.rank_scores import kendall, kendall_pool, noise_ceiling
from lightning_gengap.zoo.table import Floats, Mask, Rows, Table

FEWEST_TEST_SAMPLES, FEWEST_RUNS, FEWEST_SCORED = 1000, 8, 5
CONVERGED = 0.97


def last_snapshots(table: Table) -> Mask:
    """The rows with the largest epoch of their runs."""
    epochs, run = table.numbers("epoch"), table.codes("run")
    largest = np.full(int(run.max()) + 1, -np.inf)
    np.maximum.at(largest, run, epochs)
    return np.asarray(epochs == largest[run])


def converged(table: Table) -> Mask:
    """The last snapshots whose train accuracy is at least 0.97."""
    return last_snapshots(table) & (table.numbers("measure.train_accuracy") >= CONVERGED)


def stages(table: Table) -> dict[str, Mask]:
    """Snapshots by share of the planned steps and by train accuracy; the parts overlap."""
    progress, accuracy = table.numbers("measure.progress"), table.numbers("measure.train_accuracy")
    return {
        "first third of training": progress <= 1 / 3,
        "second third": (progress > 1 / 3) & (progress <= 2 / 3),
        "last third": progress > 2 / 3,
        "last snapshot": last_snapshots(table),
        "train accuracy below 0.7": accuracy < 0.7,
        "train accuracy 0.7 to 0.9": (accuracy >= 0.7) & (accuracy < 0.9),
        "train accuracy 0.9 to 0.97": (accuracy >= 0.9) & (accuracy < CONVERGED),
        "train accuracy from 0.97": accuracy >= CONVERGED,
    }


def ranking(table: Table, rows: Rows, gaps: dict[str, Floats]) -> dict[str, Any]:
    """Kendall's tau of predicted and actual test accuracy within held-out tasks, beside the noise ceiling.

    Tasks count that have at least 1,000 test samples and eight runs, five of which take part. `along training` ranks
    all snapshots, `final` the last one of each run, and `converged` those of them that have converged. The gaps are
    those of the held-out rows, by contender; the constant ranks by train accuracy.
    """
    return {
        "along training": _ranked(table, rows, gaps, np.ones(len(rows), bool)),
        "final": _ranked(table, rows, gaps, last_snapshots(table)[rows]),
        "converged": _ranked(table, rows, gaps, converged(table)[rows]),
    }


def _ranked(table: Table, rows: Rows, gaps: dict[str, Floats], chosen: Mask) -> dict[str, Any]:
    parts = serving(table, rows, chosen)
    train, test = table.numbers("measure.train_accuracy")[rows], table.numbers("gap.test_accuracy")[rows]
    runs, samples = table.words("run")[rows], table.numbers("gap.test_samples")[rows]
    clean = table.numbers("gap.clean_test_accuracy")[rows]
    correct = np.where(np.isfinite(clean), clean, test)
    taus = {
        "train accuracy" if name == "constant" else name: within(train - gap, test, runs, parts)
        for name, gap in gaps.items()
    }
    ceiling = [noise_ceiling(correct[part], samples[part]) for part in parts]
    return {
        "tasks": len(parts),
        "snapshots": sum(map(len, parts)),
        "tau": {name: tau.listed() for name, tau in taus.items()},
        "over trivial": {name: tau.minus(taus["trivial"]).listed() for name, tau in taus.items() if name != "trivial"},
        "ceiling": bootstrap(np.array(ceiling)),
    }


def serving(table: Table, rows: Rows, chosen: Mask) -> list[Rows]:
    """For each task with enough test samples and runs to serve a ranking, where in `rows` its chosen snapshots are."""
    tasks, runs = table.words("task")[rows], table.words("run")
    enough = table.numbers("gap.test_samples")[rows] >= FEWEST_TEST_SAMPLES
    every = table.words("task")
    sizes = {task: len(set(runs[every == task])) for task in sorted(set(tasks))}
    parts = [np.flatnonzero(chosen & enough & (tasks == task)) for task, size in sizes.items() if size >= FEWEST_RUNS]
    return [part for part in parts if len(set(runs[rows[part]])) >= FEWEST_SCORED]


def within(score: Floats, actual: Floats, runs: NDArray[np.str_], parts: list[Rows]) -> Score:
    """Mean tau over parts (tasks), with tasks and then their runs resampled."""
    taus = np.array([kendall(score[part], actual[part]) for part in parts])
    pools = [kendall_pool(score[part], actual[part], runs[part]) for part in parts]
    return over_groups(taus, np.stack(pools) if pools else np.zeros((0, 1)))


def turn(table: Table, rows: Rows, gaps: dict[str, Floats]) -> dict[str, Any]:
    """Within runs: tau over the snapshots, and the regret, in test points, of the snapshot that a contender prefers.

    The regret is the test accuracy of the best snapshot (the oracle's choice) minus that of the chosen one; `last` is
    the regret of the last snapshot. Runs count that have at least ten scored snapshots. If there are none, those with
    at least six count, and `short` says so.
    """
    runs, tasks, epochs = table.words("run")[rows], table.words("task"), table.numbers("epoch")[rows]
    train, test = table.numbers("measure.train_accuracy")[rows], table.numbers("gap.test_accuracy")[rows]
    parts = [np.flatnonzero(runs == run) for run in sorted(set(runs))]
    short = not any(len(part) >= 10 for part in parts)
    parts = [part[np.argsort(epochs[part])] for part in parts if len(part) >= (6 if short else 10)]
    groups = np.array([tasks[rows[part[0]]] for part in parts])
    names = {name: "train accuracy" if name == "constant" else name for name in gaps}
    taus, regrets = {}, {"last": [100 * (test[part].max() - test[part[-1]]) for part in parts]}
    for name, gap in gaps.items():
        score = train - gap
        taus[names[name]] = [kendall(score[part], test[part]) for part in parts]
        regrets[names[name]] = [100 * (test[part].max() - test[part[int(np.argmax(score[part]))]]) for part in parts]
    below_last = {name: np.array(regrets["last"]) - np.array(regret) for name, regret in regrets.items()}
    return {
        "runs": len(parts),
        "short": short,
        "tau": {name: bootstrap(np.array(values), groups) for name, values in taus.items()},
        "regret": {name: bootstrap(np.array(values), groups) for name, values in regrets.items()},
        "gained over last": {name: bootstrap(values, groups) for name, values in below_last.items() if name != "last"},
    }


def by_stage(table: Table, rows: Rows, gaps: dict[str, Floats], main: str, resampling: Resampling) -> dict[str, Any]:
    """Error, mean signed error and skill of held-out predictions in each stage of training."""
    actual = table.numbers("gap.accuracy")[rows]
    errors = {name: 100 * np.abs(gap - actual) for name, gap in gaps.items()}
    listed = {}
    for name, mask in stages(table).items():
        of = np.flatnonzero(mask[rows])
        if len(of):
            listed[name] = {
                "rows": len(of),
                "mae": {c: resampling.mean(error[of], rows[of]).listed() for c, error in errors.items()},
                "signed": resampling.mean(100 * (gaps[main] - actual)[of], rows[of]).listed(),
                "skill": resampling.skill(errors[main][of], errors["trivial"][of], rows[of]).listed(),
            }
    return listed
