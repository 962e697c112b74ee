"""The study of choices has a line for each rule, and a perfect estimate loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
from choosing import COMPARED, LAST, PRIOR, SIZES, Known, choices, lines, tau_within_tasks
from evidence import Estimated, Estimates
from held_out_samples import RealAnswers, simulated_samples

from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.fit.scales import held_out_residuals
from lightning_gengap.zoo.splits import by_task
from lightning_gengap.zoo.table import Rows
from tests.zoo.tables import table

SPECIFICATION = Specification("small", (Term("train_loss", "log"), Term("difficulty/ridge_accuracy")), offset=2.0)
MADE = table(noise=0.3, tasks=12)
FOUND = held_out_residuals(MADE, SPECIFICATION, by_task(MADE), np.ones(len(MADE), bool))
CODES = {name: MADE.codes(name)[FOUND.rows] for name in ("run", "task")}


def test_an_estimate_that_knows_the_test_loses_nothing() -> None:
    tested, epochs = (
        MADE.numbers("gap.test_accuracy")[FOUND.rows],
        np.tile(np.arange(1.0, 7.0), len(FOUND.rows) // 6 + 1),
    )
    epochs = epochs[: len(FOUND.rows)]
    runs = np.arange(len(FOUND.rows)) // 6
    codes = {"run": runs, "task": runs // 4}
    known = Estimates(tested, np.full(len(tested), 0.01))
    made = Estimated({PRIOR: known}, tested, np.full(len(tested), 1000.0), np.stack([tested, tested]))
    nothing = Known(FOUND, epochs, np.ones(len(tested)), 50, {})
    found = choices(FOUND, codes, epochs, made, PRIOR, nothing)
    assert len(found) == len(tested) // 6
    assert all(one.lost == 0 and one.too_high == 0 and one.covered for one in found)
    assert np.nanmean([one.tau for one in found]) == pytest.approx(1)
    assert np.mean(tau_within_tasks(codes, epochs, made, PRIOR, nothing)) == pytest.approx(1)
    last = choices(FOUND, codes, epochs, made, LAST, nothing)
    turning = [one for one in last if one.turns]
    assert turning
    assert min(one.lost for one in turning) >= 1.5
    assert min(one.lost for one in last) >= 0


def test_every_estimate_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choosing.FEWEST_SNAPSHOTS", 2)
    found = lines(MADE, FOUND, 1, simulated_samples(MADE))
    assert len(found) == 2 + 2 * len(SIZES)
    assert [cells[0] for cells in found] == ["0", "0", *(str(size) for size in SIZES for _ in range(2))]
    joined = found[3]
    assert float(joined[6]) >= 0
    assert float(joined[8]) >= float(joined[7])  # the choice widens the interval


def test_real_samples_put_a_task_in_order_too() -> None:
    tested = MADE.numbers("gap.test_accuracy")

    def draw(rows: Rows, samples: int, seed: int) -> RealAnswers:
        right = np.arange(samples) < np.round(tested[rows] * samples)[:, None]
        return RealAnswers(right, tested[rows], np.stack([tested[rows]] * 2), np.full(len(rows), 1e4))

    found = lines(MADE, FOUND, 1, simulated_samples(MADE), draw)
    assert len(found) == 2 + 3 * len(SIZES)
    prior, compared = (float(next(one[2] for one in found if one[1] == name)) for name in (PRIOR, COMPARED))
    assert compared > prior
