"""The page of costs: written from the timings and from what the measures declare."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightning_gengap.measures import MEASURES

ROOT = Path(__file__).parents[2]
COSTS = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "cost_page.py")))
TIMINGS = COSTS.read()
TIMED = [row for row in TIMINGS if row.measure in MEASURES and MEASURES[row.measure].forwards >= 3]


def test_the_committed_page_is_what_timings_and_registry_give():
    text = COSTS.PAGE.read_text(encoding="utf-8")
    assert COSTS.page(text, TIMINGS) == text, "python benchmarks/cost_page.py"


def test_a_measure_without_a_timing_is_shown_with_the_cost_that_it_declares():
    page = COSTS.page("<!-- timings of Other -->\n<!-- end -->", TIMINGS)
    assert "| margin | 2 | - | not timed | not timed |" in page
    assert "| worst_case | 300 to 1040 | - | not timed | not timed |" in page
    assert page.count("not timed | not timed") == len(MEASURES)


def test_rounds_are_told_by_median_and_range():
    row = COSTS.timing("Other", "margin", [(4.0, 2.0, 8.0), (6.0, 2.0, 8.0), (3.0, 2.0, 8.0)])
    page = COSTS.page("<!-- timings of Other -->\n<!-- end -->", [row])
    assert "| margin | 2 | 3 | 0.50 [0.38, 0.75] | 2.0 [1.5, 3.0] |" in page


@pytest.mark.parametrize("row", TIMED, ids=lambda row: f"{row.network}, {row.measure}")
def test_an_expensive_measure_declares_about_the_time_that_was_taken(row: SimpleNamespace):
    assert abs(math.log(MEASURES[row.measure].forwards / float(row.forwards))) < math.log(2)
