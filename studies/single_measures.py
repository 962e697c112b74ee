"""Every measure by itself: as a feature, and as a ranking within tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from lightning_gengap.zoo.evaluate.ablation import COMPARED, finite, measures_of, term_of, union
from lightning_gengap.zoo.evaluate.group_ablation import FEWEST_TASKS, scarce
from lightning_gengap.zoo.evaluate.regressors import hold_out_points
from lightning_gengap.zoo.evaluate.splits import Mask, Split

from lightning_gengap.zoo.evaluate.abilities import CONVERGED, Rows, last_snapshots, serving, within
from lightning_gengap.zoo.evaluate.bootstrap import Score
from lightning_gengap.zoo.evaluate.held_out import TRIVIAL_BASELINE, HeldOut, Setting
from lightning_gengap.zoo.table import Floats, Table


def singles(setting: Setting, split_of: Mapping[str, list[Split]], allowed: Mask) -> dict[str, Any]:
    """Every measure alone and beside the trivial features, on the rows that have it; its order within tasks."""
    table, draws, actual = setting.table, setting.resampling, setting.table.numbers("gap.accuracy")
    cache: dict[tuple[str, bytes], tuple[Rows, Floats]] = {}
    listed = {}
    for key in measures_of(table, allowed):
        term = term_of(key)
        among = allowed & finite(table, (term,))
        row: dict[str, Any] = {"rows": int(among.sum()), "splits": {}}
        for split in COMPARED:
            found = cache.get((split, among.tobytes()))
            if found is None:
                held = hold_out_points(table, TRIVIAL_BASELINE, split_of[split], among, None, setting.codes)
                found = cache[split, among.tobytes()] = (held.rows, np.abs(held.gap - actual[held.rows]))
            errors = {}
            for name, terms in {"alone": (term,), "added": union(TRIVIAL_BASELINE.features, (term,))}.items():
                beside = replace(TRIVIAL_BASELINE, features=terms)
                held = hold_out_points(table, beside, split_of[split], among, None, setting.codes)
                errors[name] = np.abs(held.gap - actual[held.rows])
            rows, trivial = found
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
    runs, last = table.words("run")[rows], last_snapshots(table)[rows]
    settled = last & (table.numbers("measure.train_accuracy")[rows] >= CONVERGED)
    return {
        name: within(values, test, runs, serving(table, rows, chosen))
        for name, chosen in {"along training": np.ones(len(rows), bool), "converged": settled}.items()
    }


def _size(tau: Score) -> Score:
    return Score(abs(tau.value), np.abs(tau.draws))


def scarce_orders(setting: Setting, held: HeldOut) -> dict[str, Any]:
    """Scarce measures as rankings of the last snapshots within all tasks that have them, for gap and test accuracy.

    Beside each, on the same snapshots: train loss, and the predictions of the specification held out by task. A measure
    is given its better direction there, in every draw too, which flatters those without one.

    Args:
        setting: the table and the rows that take part.
        held: held-out predictions of the specification.
    """
    table, last = setting.table, last_snapshots(setting.table)
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
