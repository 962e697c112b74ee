"""What recalibrating on observed gaps gains: on held-out tasks, from other models of the task, and live within a run.

    python benchmarks/recalibration.py [--table pretrained_predictors/small_zoo_v3.csv.gz] [--draws 20]

Development rows alone, by folds of whole tasks. Before and after are the same rows; means with 95 % intervals by
resampling tasks.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning_gengap.zoo.evaluate.splits import by_task, development

from lightning_gengap.predictors.predictor import Correction, Prediction, Predictor
from lightning_gengap.predictors.recalibration import (
    Pair,
    correction_of,
    live_correction,
    recalibrate,
    recalibrated,
    scaled_residual,
)
from lightning_gengap.zoo.evaluate.bootstrap import bootstrap
from lightning_gengap.zoo.fit.fit import fit, usable
from lightning_gengap.zoo.fit.specifications import IMAGES_3
from lightning_gengap.zoo.table import Table, read


@dataclass(frozen=True)
class Snapshot:
    """One held-out row on which the predictor of its fold does not abstain."""

    task: str
    run: str
    pair: Pair
    prediction: Prediction


@dataclass(frozen=True)
class Change:
    """Errors and coverage before and after, on one row."""

    task: str
    before: float
    after: float
    covered_before: float = 0.0
    covered_after: float = 0.0


def held_out(table: Table) -> Iterator[tuple[Predictor, dict[str, dict[str, list[Snapshot]]]]]:
    """For every fold a predictor, and the snapshots that it never saw, in order, by task and run."""
    rows = development(table) & usable(table, IMAGES_3)
    names = dict.fromkeys(("train_accuracy", "train_loss", "classes", *IMAGES_3.needs))
    values = {name: table.numbers(f"measure.{name}").tolist() for name in names}
    gaps, epochs = table.numbers("gap.accuracy").tolist(), table.numbers("epoch")
    for _, fitted, held in by_task(table):
        predictor = fit(table, IMAGES_3, fitted & rows)
        tasks: dict[str, dict[str, list[Snapshot]]] = {}
        chosen = np.flatnonzero(held & rows)
        for row in chosen[np.argsort(epochs[chosen], kind="stable")].tolist():
            measured = {name: column[row] for name, column in values.items()}
            prediction = predictor.predict(measured)
            if not prediction.abstained:
                task, run = table.columns["task"][row], table.columns["run"][row]
                snapshot = Snapshot(task, run, (measured, gaps[row]), prediction)
                tasks.setdefault(task, {}).setdefault(run, []).append(snapshot)
        yield predictor, tasks


def offline(predictor: Predictor, runs: dict[str, list[Snapshot]], count: int, draws: int) -> list[Change]:
    """The last snapshots of `count` drawn runs correct the other runs of their task."""
    rng, changes = np.random.default_rng(0), []
    for _ in range(draws if len(runs) > count else 0):
        seen = set(rng.permutation(sorted(runs))[:count].tolist())
        own = recalibrate(predictor, [runs[run][-1].pair for run in sorted(seen)])
        for snapshot in (snapshot for run in sorted(set(runs) - seen) for snapshot in runs[run]):
            (values, gap), old = snapshot.pair, snapshot.prediction
            new = own.predict(values)
            inside = [float(one.lower <= gap <= one.upper) for one in (old, new)]
            changes.append(Change(snapshot.task, abs(old.gap - gap), abs(new.gap - gap), *inside))
    return changes


Rule = Callable[[Predictor, list[float], int], Correction]
LIVE = (
    ("within a run, next snapshot", None, 1),
    ("the same, fourth next snapshot", None, 4),
    ("the same, next snapshot, 200 validation samples", 200, 1),
)


def rules() -> dict[str, Rule | None]:
    """Ways of turning the residuals of one run, oldest first, into a correction; `age`: snapshots since the latest."""

    def fixed(weight: float, decay: float) -> Rule:
        def rule(predictor: Predictor, residuals: list[float], age: int) -> Correction:
            ages = np.arange(len(residuals))[::-1]
            mean = float(np.average(residuals, weights=decay**ages))
            return Correction(1 + weight * mean, 1.0, len(residuals))

        return rule

    found: dict[str, Rule | None] = {
        "the last observed gap itself": None,
        "every epoch a model": lambda p, r, age: correction_of(p, r),
    }
    for cap in (1, 2, 4):
        found[f"mean, counts as at most {cap}"] = lambda p, r, age, cap=cap: correction_of(p, r, min(len(r), cap))
    for cap in (1, 2, 4):
        found[f"last, counts as {cap}"] = lambda p, r, age, cap=cap: correction_of(p, r[-1:], cap)
    for decay in (0.5, 0.25, 0.0):
        for weight in (0.6, 0.8, 1.0):
            name = "last" if decay == 0 else f"mean fading by {decay:g}"
            found[f"{name}, weight {weight:g}"] = fixed(weight, decay)
    found["last, fading with its age (as logged)"] = lambda p, r, age: live_correction(r, age)
    return found


def live(
    predictor: Predictor, snapshots: list[Snapshot], rule: Rule | None, validation: int | None, lag: int
) -> list[Change]:
    """At every snapshot but the first `lag`, what the earlier ones of the same run would have corrected.

    Without a rule the last observed gap itself is the guess. `validation`: of so many samples; None for the test set.
    """
    observed = [one.pair[1] for one in snapshots]
    if validation is not None:  # its sampling error, alike for all rules
        seed = int(snapshots[0].run, 16)
        accuracies = [min(max(one.pair[0]["train_accuracy"] - one.pair[1], 0.0), 1.0) for one in snapshots]
        deviations = [(accuracy * (1 - accuracy) / validation) ** 0.5 for accuracy in accuracies]
        observed = (
            np.array(observed) + deviations * np.random.default_rng(seed).standard_normal(len(snapshots))
        ).tolist()
    pairs = zip(snapshots, observed, strict=True)
    residuals = [scaled_residual(predictor, one.prediction, gap) for one, gap in pairs]
    changes = []
    for seen, snapshot in enumerate(snapshots[lag:], start=1):
        (values, gap), old = snapshot.pair, snapshot.prediction
        new = observed[seen - 1]
        if rule is not None:
            new = recalibrated(predictor, old, rule(predictor, residuals[:seen], lag), values["train_accuracy"])
        changes.append(Change(snapshot.task, abs(old.gap - gap), abs(new - gap)))
    return changes


def line(name: str, changes: list[Change], coverage: bool) -> str:
    """One row of a Markdown table."""
    tasks = np.array([change.task for change in changes])

    def column(values: list[float]) -> str:
        mean, low, high = bootstrap(100 * np.array(values), tasks) or [0.0, 0.0, 0.0]
        return f"{mean:.2f} [{low:.2f}, {high:.2f}]"

    cells = [name, str(len(set(tasks))), column([change.before for change in changes])]
    cells += [column([change.after for change in changes]), column([c.after - c.before for c in changes])]
    if coverage:
        cells += [column([c.covered_before for c in changes]), column([c.covered_after for c in changes])]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("pretrained_predictors/small_zoo_v3.csv.gz"))
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    folds = list(held_out(read(options.table)))
    shares = ", ".join(f"{predictor.provenance['shared_by_task']:.2f}" for predictor, _ in folds)
    print(f"Share of the residuals' variance that a task's rows have in common, by fold: {shares}\n")
    print("| pairs of other runs | tasks | error before | after | change | coverage before | after |")
    print("|---|---|---|---|---|---|---|")
    for count in (1, 2, 4):
        changes = [
            change
            for predictor, tasks in folds
            for runs in tasks.values()
            for change in offline(predictor, runs, count, options.draws)
        ]
        print(line(str(count), changes, coverage=True))
    for title, validation, lag in LIVE:
        print(f"\n| {title} | tasks | error before | after | change |\n|---|---|---|---|---|")
        for name, rule in rules().items():
            changes = [
                change
                for predictor, tasks in folds
                for runs in tasks.values()
                for snapshots in runs.values()
                for change in live(predictor, snapshots, rule, validation, lag)
            ]
            print(line(name, changes, coverage=False))


if __name__ == "__main__":
    main()
