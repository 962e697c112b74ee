from __future__ import annotations

from pathlib import Path

import pytest

from lightning_gengap.errors import MeasureError
from lightning_gengap.measures import MEASURED, MEASURES
from lightning_gengap.monitor.logged_keys import PREDICTED
from lightning_gengap.reference_pages import describe_measure, measures_page

PAGE = Path(__file__).parents[1] / "docs" / "measures.md"


def rows() -> dict[str, str]:
    """The lines of all tables, by their first cell."""
    return {line.split(" | ")[0].removeprefix("| "): line for line in measures_page().splitlines()}


def test_the_committed_page_is_what_the_registry_gives() -> None:
    assert PAGE.read_text(encoding="utf-8") == measures_page(), "gengap measures > docs/measures.md"


def test_every_measure_key_and_figure_has_one_row() -> None:
    named = [line.split(" | ")[0].removeprefix("| ") for line in measures_page().splitlines() if line.startswith("| `")]
    numbers = [key for name in ("", *MEASURES) for key, declared in MEASURED.items() if declared.measure == name]
    figures = [key for row in MEASURES.values() for key, declared in row.keys.items() if declared.kind != "scalar"]
    assert sorted(named) == sorted(f"`{name}`" for name in (*MEASURES, *numbers, *figures, *PREDICTED))


def test_rows_give_cost_reference_unit_range_and_invariances() -> None:
    lines = rows()
    assert "| once per training | 1 | an eigendecomposition (examples x examples) |" in lines["`difficulty`"]
    assert "| on request, each time | 300 (≤ 1040) |" in lines["`worst_case`"]
    assert lines["`calibration`"].endswith("| Guo et al. 2017 (arXiv 1706.04599) |")
    assert "| logits | unbounded | mean of the output margin | no | yes | yes |" in lines["`margin/output/mean`"]
    assert "| margin | histogram | none | signed normalized margins at h1 |" in lines["`margin/h1`"]
    assert lines["`sharpness/kl_0.01`"].count("\\|") == 2, "bars are escaped"
    assert all(lines[f"`{key}`"].count(" | ") == 7 for key in MEASURED if key.startswith("margin/"))


@pytest.mark.parametrize("name", MEASURES)
def test_the_description_of_a_measure_names_all_its_keys_in_columns(name: str) -> None:
    lines = describe_measure(name).splitlines()
    assert lines[0].startswith(f"{name}: ")
    start = next(i for i, line in enumerate(lines) if line.startswith("key under gengap/"))
    unit = lines[start].index("unit")
    declared = {key: entry for key, entry in MEASURED.items() if entry.measure == name}
    table = lines[start + 1 : start + 1 + len(declared)]
    assert [line.split()[0] for line in table] == list(declared)
    for line, entry in zip(table, declared.values(), strict=True):
        assert line[unit:].startswith(entry.unit)
        assert line.endswith(entry.meaning)


def test_a_description_gives_cost_reference_and_figures() -> None:
    text = describe_measure("margin")
    assert "cost        2 forward passes over 1,024 samples\n" in text
    assert "reference   Jiang et al. 2019 (arXiv 1810.00113), Bartlett et al. 2017 (arXiv 1706.08498)\n" in text
    assert "margin/h1     histogram  none  signed normalized margins at h1\n" in text
    assert "besides singular values of the kernels\n" in describe_measure("norm_product")


def test_an_unknown_measure_lists_the_known() -> None:
    with pytest.raises(MeasureError, match="got 'margns'; expected one of margin, fit"):
        describe_measure("margns")
