from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.fit.fit import fit, usable
from lightning_gengap.zoo.fit.ridge import standardised
from lightning_gengap.zoo.fit.row_weights import row_weights
from tests.zoo.tables import rows, table_of

PLAIN = Specification("plain", (Term("train_accuracy", "identity"), Term("train_loss", "log")))
BALANCED = replace(PLAIN, balanced=True)


def uneven(epochs: dict[str, dict[str, list[int]]]) -> list[dict[str, Any]]:
    """Rows with the given epochs by task and run."""
    template = rows(1)[0]
    return [
        template | {"task": task, "run": run, "epoch": float(epoch)}
        for task, runs in epochs.items()
        for run, found in runs.items()
        for epoch in found
    ]


def test_unbalanced_rows_weigh_one():
    table = table_of(rows(4))
    assert (row_weights(table, PLAIN, np.ones(len(table), bool)) == 1).all()


def test_balanced_weights_by_hand():
    table = table_of(uneven({"a": {"r": [1, 2], "s": [4]}, "b": {"t": [5, 10]}}))
    weights = row_weights(table, BALANCED, np.ones(len(table), bool))
    # Task a: two runs of a half each, the first 1 : 4; task b: one run, 1 : 4; five rows with mean one.
    assert weights == pytest.approx(5 / 2 * np.array([0.1, 0.4, 0.5, 0.2, 0.8]))


def test_tasks_of_a_favoured_plan_count_three_times():
    made = uneven({"a": {"r": [1, 2], "s": [4]}, "b": {"t": [5, 10]}})
    table = table_of([row | {"recipe.plan": "colour" if row["task"] == "a" else ""} for row in made])
    everywhere = np.ones(len(table), bool)
    weights = row_weights(table, replace(BALANCED, favoured="colour"), everywhere)
    assert weights[:3].sum() == pytest.approx(3 * weights[3:].sum())
    assert weights.mean() == pytest.approx(1)
    plain = table_of(made)
    favoured = row_weights(plain, replace(BALANCED, favoured="colour"), everywhere)
    assert favoured == pytest.approx(row_weights(plain, BALANCED, everywhere))


def test_a_table_without_epochs_counts_the_rows_of_a_run_alike():
    made = [{name: cell for name, cell in row.items() if name != "epoch"} for row in rows(4)]
    made = [row | {"run": f"{number}"} for number, row in enumerate(made)]
    table = table_of(made)
    assert row_weights(table, BALANCED, np.ones(len(table), bool)) == pytest.approx(np.ones(len(table)))


def test_many_runs_of_one_task_do_not_draw_a_balanced_fit_to_themselves():
    made = rows(8)
    first = made[0]["task"]
    for row in made:
        row["gap.accuracy"] = 0.1 if row["task"] == first else 0.3
    copies = [row | {"run": f"{row['run']}-{n}"} for n in range(20) for row in made if row["task"] == first]
    table = table_of(made + copies)
    tasks = len({row["task"] for row in made})
    everywhere = np.ones(len(table), bool)
    weighted = np.average(table.numbers("gap.accuracy"), weights=row_weights(table, BALANCED, everywhere))
    assert weighted == pytest.approx((0.1 + 0.3 * (tasks - 1)) / tasks)
    assert table.numbers("gap.accuracy").mean() < weighted - 0.05


def test_balanced_fit_is_weighted_ridge():
    table = table_of(rows(8))
    chosen = usable(table, BALANCED)
    predictor = fit(table, BALANCED)
    weights, gaps = row_weights(table, BALANCED, chosen), table.numbers("gap.accuracy")[chosen]
    columns = standardised(table, predictor.features, chosen)
    # Plainest form: least squares with the penalty as further rows, the intercept free.
    count, strength = len(gaps), predictor.provenance["ridge_strength"]
    left = np.vstack(
        [
            np.sqrt(weights)[:, None] * np.column_stack([np.ones(count), columns]),
            np.sqrt(strength * count) * np.eye(columns.shape[1] + 1)[1:],
        ]
    )
    right = np.concatenate([np.sqrt(weights) * gaps, np.zeros(columns.shape[1])])
    solved = np.linalg.lstsq(left, right, rcond=None)[0]
    assert [f.coefficient * f.deviation for f in predictor.features] == pytest.approx(list(solved[1:]), abs=1e-6)
    assert predictor.intercept == pytest.approx(solved[0], abs=1e-6)
