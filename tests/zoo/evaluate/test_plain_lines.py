"""The lines are those of their formulas, row by row."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_gengap.zoo.evaluate.plain_lines import FROZEN, anchor_line, frozen_line
from lightning_gengap.zoo.frames import pd
from lightning_gengap.zoo.table import Table


def test_the_better_of_two_classifiers_is_taken_from_the_train_accuracy() -> None:
    rows = [(0.9, 0.7, 0.6), (0.9, 0.6, 0.95), (0.5, 0.7, 0.2), (0.8, math.nan, 0.5)]
    cells = [["" if math.isnan(value) else str(value) for value in row] for row in rows]
    table = Table(pd.DataFrame(cells, columns=[f"measure.{key}" for key in FROZEN]), "")
    found = frozen_line(table, np.ones(4, bool))
    assert found[:3] == pytest.approx([0.2, 0.0, -0.2])
    assert math.isnan(found[3])


def test_the_best_reference_alone_leaves_no_negative_gap() -> None:
    cells = [["0.9", "0.7"], ["0.6", "0.7"], ["0.9", ""]]
    table = Table(pd.DataFrame(cells, columns=["measure.train_accuracy", "measure.reference/best_accuracy"]), "")
    found = anchor_line(table, np.ones(3, bool))
    assert found[:2] == pytest.approx([0.2, 0.0])
    assert math.isnan(found[2])
