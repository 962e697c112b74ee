import numpy as np

from lightning_gengap.zoo.evaluate.grids import axes_of, grids
from lightning_gengap.zoo.evaluate.scores import Assessment
from tests.zoo.tables import table


def test_grid_scores_find_the_planted_gap_and_the_noise(assessment: Assessment):
    (grid,) = assessment.report["grids"]["grids"].values()
    assert grid["axes"] == {"width": 3, "depth": 2, "norm": 2}  # not the epochs, which follow from the width
    assert grid["models"] == 24
    scores = grid["scores"]
    assert scores["planted"]["pgdl"] > 60 > 35 > scores["norm/log_sum_spectral"]["pgdl"]
    assert scores["planted"]["mean"] < 0.1 < 0.3 < scores["norm/log_sum_spectral"]["mean"]
    assert scores["train_loss"]["tau"] > 0.2  # its direction (less loss, more gap) was learned on the other tasks
    assert "path_norm/log" not in scores  # missing in half of the models
    assert assessment.report["grids"]["mean"]["planted"]["grids"] == 1


def test_tables_without_a_grid_have_none():
    made = table(tasks=2)
    assert grids(made, np.ones(len(made), bool)) == []
    assert set(axes_of(made, np.arange(len(made)))) == {"family", "source"}  # classes and noise follow from the source
