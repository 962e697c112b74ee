"""How much each snapshot counts in a fit: all alike, or each task alike with its later snapshots counting more."""

from __future__ import annotations

import numpy as np

from lightning_gengap.predictors.specification import Specification
from lightning_gengap.zoo.table import Floats, Mask, Table

FAVOUR = 3.0


def row_weights(table: Table, specification: Specification, rows: Mask) -> Floats:
    """Weights of the rows, with a mean of one.

    Where the specification is `balanced`, a snapshot counts by the square of its share of the run's last epoch. The
    snapshots of a run then add up to one, and the rows of every task to the same. So a task with many runs, or a run
    with many early snapshots, does not draw the fit to itself. Those of the plan that it favours add up to three times
    as much.
    """
    count = int(rows.sum())
    if not specification.balanced:
        return np.ones(count)
    epoch = table.numbers("epoch")[rows]
    epoch = np.where(epoch > 0, epoch, 1.0)  # a table of one row per run may lack it
    run, task = table.codes("run")[rows], table.codes("task")[rows]
    last = np.zeros(int(run.max()) + 1)
    np.maximum.at(last, run, epoch)
    late = (epoch / last[run]) ** 2
    of_run = late / np.bincount(run, late)[run]
    of_task = of_run / np.bincount(task, of_run)[task]
    if specification.favoured and "recipe.plan" in table.columns:
        of_task = np.where(table.words("recipe.plan")[rows] == specification.favoured, FAVOUR, 1.0) * of_task
    weights: Floats = of_task / of_task.mean()
    return weights
