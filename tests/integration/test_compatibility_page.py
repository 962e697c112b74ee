"""The page of the architectures that were tried: how it is written, and what the README says of it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
ROW = dict.fromkeys(("parameters", "status", "seconds", "without", "margins", "absent", "unexplained", "said"), "")


def test_the_readme_states_the_counts_of_the_page() -> None:
    tried, measured, identical, explained = map(int, re.findall(r"\d+", re.search(r"^\| all \|.*$", PAGE, re.M)[0]))
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{measured} of {tried} architectures" in readme
    assert f"{identical} of the trainings" in readme
    assert explained == measured == identical


def test_the_page_counts_and_explains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    table = runpy.run_path(str(ROOT / "benchmarks" / "compatibility_table.py"))["table"]
    monkeypatch.setitem(table.__globals__, "version", lambda name: "1.0")
    works = ROW | {"kind": "timm", "outcome": "works", "identical": "True", "parameters": "1234", "status": "5"}
    said = {"said": "GapMonitor: norm/* is absent: LayerNorm 'net.norm' cannot be folded."}
    page = table(
        [
            works | {"name": "one"} | said,
            works | {"name": "two", "identical": "False"} | said,
            works | {"name": "three", "unexplained": "margin/h1/q1"},
            ROW | {"kind": "tabular", "name": "four", "outcome": "ended: ValueError", "identical": ""},
        ]
    )
    assert "| timm | 3 | 3 | 2 | 2 |" in page
    assert "| all | 4 | 3 | 2 | 2 |" in page
    assert "1. (2) norm/* is absent: LayerNorm ... cannot be folded" in page
    assert "| timm | two | 1,234 | works | always abstains | no |" in page
    assert "absent without a reason: margin/h1/q1" in page
    assert "| tabular | four |  | ended: ValueError |" in page
