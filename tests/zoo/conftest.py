import math
from typing import Any

import numpy as np
import pytest

from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.evaluate.scores import Assessment, assess
from tests.zoo.tables import rows, table_of

PLANTED = Specification(
    "planted",
    (Term("train_loss", "log"), Term("train_samples", "log"), Term("difficulty/ridge_accuracy")),
    loss_head="features",
)


def grid_rows() -> list[dict[str, Any]]:
    """A full grid of 3 x 2 x 2 settings and two seeds in one task, by the same planted law as the rest."""
    made = rows(3, noise=0.02, seed=7)
    for place, row in enumerate(made):
        run = place // 4
        row |= {"run": f"grid-{run:02}", "task": "grid", "recipe.source": "cifar10", "recipe.classes": "0 1"}
        row |= {
            "recipe.grid": "full",
            "recipe.width": run % 3,
            "recipe.depth": run // 3 % 2,
            "recipe.norm": run // 6 % 2,
        }
        row |= {"recipe.seed": run // 12, "recipe.epochs": 10 * (run % 3), "recipe.noise": 0.0, "recipe.family": "cnn"}
    return made


def assessed_rows() -> list[dict[str, Any]]:
    """9 tasks and a grid: one measure is noise, one is missing in half of the runs; to be quick, one margin is left."""
    rng = np.random.default_rng(1)
    made = [*rows(9, noise=0.02), *grid_rows()]
    for place, row in enumerate(made):
        row["measure.norm/log_sum_spectral"] = float(rng.normal())
        row["gap.loss"] = math.exp(-row["measure.difficulty/ridge_accuracy"]) / math.sqrt(row["measure.train_loss"])
        row["measure.path_norm/log"] = float(rng.normal()) if place // 4 % 2 else ""
        for key in [key for key in row if key.startswith("measure.margin/") and key != "measure.margin/h1/median"]:
            del row[key]
    return made


@pytest.fixture(scope="session")
def assessment() -> Assessment:
    """The planted specification assessed on these rows."""
    return assess(table_of(assessed_rows()), PLANTED, locked=True)
