from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hold_out import ALIKE, slope_of, slope_page


def rows() -> pd.DataFrame:
    """Two groups of equal slope and other level, and one with a single size, which tells nothing."""
    sizes = np.array([100, 200, 400, 100, 400, 300])
    frame = pd.DataFrame({name: ["a"] * 3 + ["b"] * 2 + ["c"] for name in ALIKE})
    frame["recipe.train_samples"] = sizes
    frame["gap.test_accuracy"] = 0.05 * np.log(sizes) + np.array([0.1] * 3 + [0.3] * 2 + [0.9])
    return frame


def test_the_slope_is_that_within_groups() -> None:
    assert slope_of(rows()) == (pytest.approx(0.05), pytest.approx(0.05), pytest.approx(0.05), 2)


def test_a_cost_is_the_slope_times_the_logarithm() -> None:
    page = slope_page({"tables": (0.05, 0.04, 0.06, 2)})
    assert page.splitlines()[2].startswith("| tables, 2 groups | 5.0 [4.0, 6.0] | 0.5 | 1.1 | 0.5 |")
