"""The table by kind has a cell for each number of samples, and the picture is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from contests import Study
from evidence_by_kind import SIZES, Part, draw_figure, errors_of, line, means
from held_out_samples import simulated_samples

from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.fit.scales import held_out_residuals
from lightning_gengap.zoo.splits import by_task
from tests.zoo.tables import table

SPECIFICATION = Specification("small", (Term("train_loss", "log"), Term("difficulty/ridge_accuracy")), offset=2.0)


def test_errors_fall_with_the_number_of_samples() -> None:
    made = table(noise=0.3, tasks=12)
    found = held_out_residuals(made, SPECIFICATION, by_task(made), np.ones(len(made), bool))
    joined, alone = errors_of(Study.of(made, SPECIFICATION, True), found, simulated_samples(made), draws=1)
    assert joined.shape == (len(found.rows), 1 + len(SIZES))
    assert joined[:, 0] == pytest.approx(100 * np.abs(found.residual))
    assert (np.diff(joined.mean(axis=0)) < 0).all()
    assert (joined[:, 1:].mean(axis=0) < alone.mean(axis=0) * 1.02).all()


def test_a_line_has_means_over_tasks_and_an_interval(tmp_path: Path) -> None:
    tasks, columns = np.array([0, 0, 0, 1]), np.ones((1, 1 + len(SIZES)))
    part = Part(
        "tables", "below 2000", tasks, np.array([[1.0], [1.0], [1.0], [3.0]]) * columns, np.full((4, len(SIZES)), 4.0)
    )
    middle, low, high = means(part, part.joined)
    assert middle == pytest.approx(2.0 * columns[0])
    assert low == pytest.approx(1.0 * columns[0])
    assert high == pytest.approx(3.0 * columns[0])
    assert line(part) == ["tables", "below 2000", "2", "2.0 [1.0, 3.0]", *["2.0 (4.0)"] * len(SIZES)]
    pytest.importorskip("matplotlib")
    draw_figure([part, part, part], tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")
