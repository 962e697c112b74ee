"""Every estimate has a line, and prediction and samples together err less than either."""

from __future__ import annotations

import numpy as np
from evidence import SIZES, scales, worth
from held_out_samples import simulated_samples

from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.fit.scales import held_out_residuals
from lightning_gengap.zoo.splits import by_task
from tests.zoo.tables import table

SPECIFICATION = Specification("small", (Term("train_loss", "log"), Term("difficulty/ridge_accuracy")), offset=2.0)


def test_samples_help_the_prediction_and_the_prediction_helps_the_samples() -> None:
    made = table(noise=0.3, tasks=12)
    found = held_out_residuals(made, SPECIFICATION, by_task(made), np.ones(len(made), bool))
    scale = scales(made, found, "by task")
    assert ((scale > 0.5) & (scale < 1.5)).all()
    lines = worth(made, found, "by task", 1, simulated_samples(made))
    assert len(lines) == 1 + 3 * len(SIZES)
    errors = {(int(samples), name): float(error) for samples, name, error, *_ in lines}
    alone = errors[0, "prediction alone"]
    for samples in SIZES:
        of_samples, *joined = (error for (size, _), error in errors.items() if size == samples)
        assert max(joined) < min(alone, of_samples) * 1.02
    covered = [float(cells[4]) for cells in lines]
    assert all(0.8 < each <= 1 for each in covered)
