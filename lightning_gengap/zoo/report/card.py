"""The model card of a predictor: what it was fitted on, how good it is on held-out groups, when not to use it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.zoo.fit.fit import usable
from lightning_gengap.zoo.report.markdown import render
from lightning_gengap.zoo.sealed import kept_from_fits
from lightning_gengap.zoo.table import Mask, Table

_COMPOSITION = ("recipe.source", "recipe.family", "recipe.noise", "recipe.optimizer", "recipe.augment")


def card(predictor: Predictor, table: Table, figures: Sequence[str] = ()) -> str:
    """The Markdown page of a scored predictor and the table it was fitted to; figures are paths relative to it."""
    rows = usable(table, predictor.specification)
    fitted = {
        "table_snapshots": len(table),
        "table_runs": len(set(table.words("run"))),
        "snapshots": int(rows.sum()),
        "runs": table.count("run", rows),
        "tasks": table.count("task", rows),
        "composition": _composition(table, rows),
        "left_out": _left_out(table, predictor.specification.needs, rows, kept_from_fits(table)),
    }
    return render("card.md.j2", predictor=predictor, fitted=fitted, figures=figures)


def _composition(table: Table, fitted: Mask) -> list[list[str]]:
    """How many runs, or tasks, of every kind were fitted, and the train sizes of the runs."""
    runs = table.words("run")
    rows = [
        [column.removeprefix("recipe."), _counted(table.words(column)[fitted], runs[fitted])]
        for column in _COMPOSITION
        if column in table.columns
    ]
    rows.append(["tasks by source", _counted(table.words("recipe.source")[fitted], table.words("task")[fitted])])
    places = np.flatnonzero(fitted)
    first = places[np.unique(runs[places], return_index=True)[1]]
    quarters = np.quantile(table.numbers("measure.train_samples")[first], [0, 0.25, 0.5, 0.75, 1])
    rows.append(["train samples (least, quartiles, most)", ", ".join(f"{quarter:.0f}" for quarter in quarters)])
    return rows


def _counted(values: NDArray[np.str_], members: NDArray[np.str_]) -> str:
    """Every value with the number of different members that have it."""
    return ", ".join(f"{value or 'none'} {len(set(members[values == value]))}" for value in sorted(set(values)))


def _left_out(table: Table, needs: Sequence[str], fitted: Mask, sealed: Mask) -> str:
    """Sentences on the rows that were not fitted, and why."""
    if fitted.all():
        return "Nothing was left out."
    runs = table.words("run")
    apart = ""
    if sealed.any():
        apart = f" {table.count('run', sealed)} more runs are sealed, or akin to those that are; no fit reads them."
    missing = {name: ~np.isfinite(table.numbers(f"measure.{name}")) for name in needs}
    lacking = np.logical_or.reduce([np.zeros(len(table), bool), *missing.values()])
    gone = set(runs[~fitted & ~sealed]) - set(runs[fitted])
    # A run of which some snapshots lack a feature and the others are too early counts as too early.
    early = {run for run in set(runs[~fitted & ~lacking & ~sealed]) if run in gone}
    without = gone - early
    names = ", ".join(
        f"{name} {count}" for name, absent in missing.items() if (count := len(without & set(runs[absent])))
    )
    return (
        f"Left out: {len(gone)} runs wholly, {len(without)} for want of a feature"
        + (f" ({names})" if names else "")
        + f" and {len(early)} whose train accuracy stays below the level at which the predictor abstains; in "
        f"snapshots, {int((~fitted & lacking & ~sealed).sum())} and {int((~fitted & ~lacking & ~sealed).sum())}."
        + apart
    )
