from __future__ import annotations

from pathlib import Path

import pytest

from lightning_gengap.__main__ import main
from lightning_gengap.measures import MEASURED, MEASURES
from lightning_gengap.monitor.logged_keys import PREDICTED
from lightning_gengap.reference_pages import catalogue

PAGE = Path(__file__).parents[1] / "docs" / "measures.md"


def test_the_committed_page_is_what_the_tables_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measures"]) == 0
    assert PAGE.read_text(encoding="utf-8") == capsys.readouterr().out, "gengap measures > docs/measures.md"


def test_every_measure_and_key_has_a_row_of_its_own() -> None:
    rows = [line.split(" | ")[0].removeprefix("| ") for line in catalogue().splitlines() if line.startswith("| `")]
    assert rows == [f"`{name}`" for name in (*MEASURES, *_ordered())]


def _ordered() -> list[str]:
    measured = [key for key, entry in MEASURED.items() if entry.measure]
    return [*measured, *(key for key, entry in MEASURED.items() if not entry.measure), *PREDICTED]


def test_rows_give_cost_reference_unit_range_and_invariances() -> None:
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in catalogue().splitlines()}
    assert "| once | 1 | an eigendecomposition (examples x examples) |" in rows["`difficulty`"]
    assert "| on request, each time | 300 (≤ 1040) |" in rows["`worst_case`"]
    assert rows["`calibration`"].endswith("| Guo et al. 2017 (arXiv 1706.04599) |")
    assert "| logits | unbounded | mean of the output margin | no | yes | yes |" in rows["`margin/output/mean`"]
    assert rows["`sharpness/kl_0.01`"].count("\\|") == 2, "bars are escaped"
    assert all(row.count(" | ") == 7 for row in rows.values() if row.startswith("| `margin/"))
