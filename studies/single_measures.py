"""Every measure by itself: as a feature, and as a ranking within tasks.

    python studies/single_measures.py [pretrained_predictors/small_zoo_v3.csv.gz] [--predictor images_v3] [--locked]

Prints Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from ablations import FEWEST_TASKS
from contests import COMPARED, Study, finite, study_of, study_parser, union
from measure_groups import scarce

from lightning_gengap.zoo.evaluate.abilities import converged, last_snapshots, serving, within
from lightning_gengap.zoo.evaluate.bootstrap import Score
from lightning_gengap.zoo.evaluate.comparable import measures_of, term_of
from lightning_gengap.zoo.evaluate.held_out import HeldOut, hold_out
from lightning_gengap.zoo.evaluate.quick import hold_out_points
from lightning_gengap.zoo.fit.specifications import TRIVIAL
from lightning_gengap.zoo.report.markdown import ranged
from lightning_gengap.zoo.report.markdown import table as markdown_table
from lightning_gengap.zoo.table import Floats, Rows, Table


def singles(study: Study) -> dict[str, Any]:
    """Every measure alone and beside the trivial features, on the rows that have it; its order within tasks."""
    table, draws, allowed = study.setting.table, study.setting.resampling, study.allowed
    actual = table.numbers("gap.accuracy")
    cache: dict[tuple[str, bytes], Floats] = {}
    listed = {}
    for key in measures_of(table, allowed):
        term = term_of(key)
        among = allowed & finite(table, (term,))
        row: dict[str, Any] = {"rows": int(among.sum()), "splits": {}}
        for split in COMPARED:
            if (split, among.tobytes()) not in cache:
                rows, gap = hold_out_points(table, TRIVIAL, study.split_of[split], among)
                cache[split, among.tobytes()] = np.abs(gap - actual[rows])
            errors, trivial = {}, cache[split, among.tobytes()]
            for name, terms in {"alone": (term,), "added": union(TRIVIAL.features, (term,))}.items():
                rows, gap = hold_out_points(table, replace(TRIVIAL, features=terms), study.split_of[split], among)
                errors[name] = np.abs(gap - actual[rows])
            row["splits"][split] = {name: draws.mean(100 * error, rows).listed() for name, error in errors.items()}
            row["splits"][split]["skill"] = draws.skill(errors["added"], trivial, rows).listed()
        row["tau"] = {name: tau.listed() for name, tau in _orders(table, np.flatnonzero(among), key).items()}
        listed[key] = row
    return listed


def _orders(table: Table, rows: Rows, key: str) -> dict[str, Score]:
    """Tau of a measure and the test accuracy within tasks, with its sign.

    A direction learned on the other tasks would make a measure without one negative in every task: where the sum of all
    taus is near zero, the sum without a task has the other sign.
    """
    values, test = table.numbers(f"measure.{key}")[rows], table.numbers("gap.test_accuracy")[rows]
    runs, chosen = table.words("run")[rows], {"along training": np.ones(len(rows), bool)}
    chosen["converged"] = converged(table)[rows]
    return {name: within(values, test, runs, serving(table, rows, own)) for name, own in chosen.items()}


def _size(tau: Score) -> Score:
    return Score(abs(tau.value), np.abs(tau.draws))


def scarce_orders(study: Study, held: HeldOut) -> dict[str, Any]:
    """Scarce measures as rankings of the last snapshots within all tasks that have them, for gap and test accuracy.

    Beside each, on the same snapshots: train loss, and the predictions of the specification held out by task. A measure
    is given its better direction there, in every draw too, which flatters those without one.
    """
    setting, table = study.setting, study.setting.table
    last = last_snapshots(table)
    gaps = np.full(len(table), np.nan)
    gaps[held.rows] = held.gap
    known = setting.among & last & np.isfinite(gaps)
    accuracy, loss = (table.numbers(f"measure.{name}") for name in ("train_accuracy", "train_loss"))
    listed: dict[str, Any] = {}
    for key in measures_of(table, setting.among):
        there = setting.among & finite(table, (term_of(key),))
        if not scarce(there, setting.among):
            continue
        rows = np.flatnonzero(there & known)
        parts = serving(table, rows, np.ones(len(rows), bool))
        count = {"rows": sum(map(len, parts)), "tasks": len(parts)}
        listed[key] = count
        if len(parts) < FEWEST_TASKS:
            continue
        runs, values = table.words("run")[rows], table.numbers(f"measure.{key}")[rows]
        predicted = {"gap": gaps[rows], "test": accuracy[rows] - gaps[rows]}
        targets = {"gap": table.numbers("gap.accuracy")[rows], "test": table.numbers("gap.test_accuracy")[rows]}
        for target, actual in targets.items():
            tau, by_loss = (within(score, actual, runs, parts) for score in (values, loss[rows]))
            own = within(predicted[target], actual, runs, parts)
            count[target] = {  # type: ignore[assignment]
                "tau": tau.listed(),
                "size over train loss": _size(tau).minus(_size(by_loss)).listed(),
                "size over specification": _size(tau).minus(own).listed(),
            }
    return listed


def singles_section(singles: Mapping[str, Any]) -> str:
    """Every measure alone and beside the trivial features."""
    rows = []
    for key, result in singles.items():
        errors = [ranged(result["splits"]["by task"][kind], 1) for kind in ("alone", "added")]
        skills = [ranged(split["skill"], 2) for split in result["splits"].values()]
        rows.append([key, str(result["rows"]), *errors, *skills, *(ranged(tau, 2) for tau in result["tau"].values())])
    splits = list(next(iter(singles.values()))["splits"]) if singles else []
    return (
        "Error by task, alone and beside the trivial features; skill beside them over them alone, on the rows that "
        "have the measure; tau with the test accuracy within tasks (below zero: the smaller, the better).\n\n"
        + markdown_table(
            ["measure", "rows", "alone", "added", *(f"skill {s}" for s in splits), "tau along training", "converged"],
            rows,
        )
    )


def scarce_section(scarce: Mapping[str, Any], main: str) -> str:
    """Scarce measures as rankings among last snapshots."""
    if not scarce:
        return "No measure is on less than half of the rows."
    rows = []
    few: dict[int, list[str]] = {}
    for key, result in scarce.items():
        if "gap" not in result:
            few.setdefault(result["tasks"], []).append(key)
            continue
        taus = [
            ranged(result[target][name], 2)
            for target in ("gap", "test")
            for name in ("tau", "size over train loss", "size over specification")
        ]
        rows.append([key, str(result["rows"]), str(result["tasks"]), *taus])
    over = ["size minus train loss's", f"size minus {main}'s"]
    parts = [
        "Measures on less than half of the rows, as rankings of last snapshots within every task that has them at five "
        "runs or more (eight runs in the table, 1,000 test images): Kendall's tau, and how much its size exceeds that "
        "of the train loss, and the tau of the predictions held out by task, on the same snapshots. Sizes flatter "
        "measures without a direction."
    ]
    if rows:
        header = ["measure", "snapshots", "tasks", "tau with the gap", *over, "tau with the test accuracy", *over]
        parts.append(markdown_table(header, rows))
    parts += [f"Too few tasks ({count}): {', '.join(keys)}." for count, keys in sorted(few.items())]
    return "\n\n".join(parts)


def main() -> None:
    study = study_of(study_parser(__doc__).parse_args())
    setting = study.setting
    print(singles_section(singles(study)) + "\n")
    held = hold_out(setting.table, setting.specification, study.split_of["by task"], setting.among)
    print(scarce_section(scarce_orders(study, held), setting.specification.name))


if __name__ == "__main__":
    main()
