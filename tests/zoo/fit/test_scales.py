"""The scales of the prior: on synthetic residuals whose law is known, and on a table with sources that differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.fit.scales import by_coverage, by_kind, by_score, fitted_scales, held_out_residuals
from lightning_gengap.zoo.splits import by_task
from tests.zoo.tables import rows, table, table_of

SPECIFICATION = Specification(
    "small", (Term("train_loss", "log"), Term("difficulty/ridge_accuracy")), balanced=True, symmetric=True, offset=2.0
)


def scaled(scale: float, tasks: int = 300, runs: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Residuals over deviations of a law that is so many times as wide as the predictor says, and their tasks."""
    rng = np.random.default_rng(0)
    return scale * rng.standard_normal(tasks * runs), np.repeat(np.arange(tasks), runs)


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.7])
@pytest.mark.parametrize("rule", [by_score, by_coverage])
def test_the_scale_of_a_known_law_is_found(scale: float, rule: object):
    assert rule(*scaled(scale)) == pytest.approx(scale, rel=0.05)  # type: ignore[operator]


def test_no_other_scale_has_a_better_score():
    values, tasks = scaled(1.4)
    values = np.concatenate([values, np.full(5000, 3.0)])  # one large task counts as one
    tasks = np.concatenate([tasks, np.full(5000, 10**6)])
    weights = 1 / np.bincount(np.unique(tasks, return_inverse=True)[1])[np.unique(tasks, return_inverse=True)[1]]

    def score(scale: float) -> float:
        return float(np.average(-np.log(scale) - (values / scale) ** 2 / 2, weights=weights))

    best = by_score(values, tasks)
    assert score(best) > max(score(0.95 * best), score(1.05 * best))


def test_residuals_are_of_tasks_that_were_not_fitted():
    made = table(noise=0.3)
    found = held_out_residuals(made, SPECIFICATION, by_task(made), np.ones(len(made), bool))
    assert len(found.rows) == len(made)
    actual = made.numbers("gap.test_accuracy")[found.rows]
    assert found.predicted + found.residual == pytest.approx(actual)
    assert (found.deviation > 0).all()


def test_sources_that_err_apart_have_a_larger_scale_when_they_are_left_out():
    made = rows(noise=0.3)
    for row in made:
        shift = 0.15 if row["recipe.source"] == "digits" else 0.0
        row |= {"gap.accuracy": row["gap.accuracy"] + shift, "gap.test_accuracy": row["gap.test_accuracy"] - shift}
    found = table_of(made)
    scales = fitted_scales(found, SPECIFICATION, np.ones(len(found), bool))
    assert scales.kind > scales.known > 0.5
    assert scales.neither == scales.kind  # there is one kind, which cannot be left out
    covering = fitted_scales(found, SPECIFICATION, np.ones(len(found), bool), by_coverage)
    assert covering.kind > covering.known


def test_kinds_are_told_by_their_sources():
    made = rows(tasks=6)
    for row in made:
        row["recipe.source"] = {"cifar100": "sst2", "digits": "wine"}.get(row["recipe.source"], row["recipe.source"])
    found = table_of(made)
    held = {kind: set(found.words("recipe.source")[rows]) for kind, _, rows in by_kind(found)}
    assert held == {"image": {"cifar10", "fashion_mnist"}, "table": {"wine"}, "text": {"sst2"}}


def test_a_table_without_a_source_to_leave_out_has_the_scale_of_its_tasks():
    made = rows(noise=0.3, tasks=12)
    for row in made:
        row["recipe.source"] = "cifar10"
    found = table_of(made)
    scales = fitted_scales(found, replace(SPECIFICATION, balanced=False), np.ones(len(found), bool))
    assert scales.neither == scales.kind == scales.known
