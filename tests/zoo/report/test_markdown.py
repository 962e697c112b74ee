import importlib
import sys
from pathlib import Path

import pytest

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.zoo import frames
from lightning_gengap.zoo.report import markdown
from lightning_gengap.zoo.report.markdown import aligned, ranged, render, table


def test_undefined_scores_are_dashes_and_tables_are_markdown():
    assert ranged(None, 2) == "-"
    assert ranged([1.234, 0.5, 2.0], 1) == "1.2 [0.5, 2.0]"
    assert table(["a", "b"], [["1", "2.0"]]) == "| a   | b   |\n|:----|:----|\n| 1   | 2.0 |"
    assert aligned("a | b\n\n1 | 2.0\n") == table(["a", "b"], [["1", "2.0"]]) + "\n"
    with pytest.raises(ValueError, match="columns"):
        aligned("a | b\n1 | 2 | 3\n")


@pytest.mark.parametrize("library", ["jinja2", "pandas", "tabulate"])
def test_a_missing_library_is_named_before_the_long_work(library: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, library, None)  # as if not installed
    for module in (markdown, frames):
        monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(ConfigurationError, match=rf"got no {library};.*lightning-gengap\[zoo\]"):
        importlib.import_module(markdown.__name__)


def test_a_template_may_stand_elsewhere_and_blank_lines_count_once(tmp_path: Path):
    (tmp_path / "page.md.j2").write_text("# {{ title }}\n\n{% if title %}\n\n{% endif %}\n\nEnd.\n\n\n")
    assert render("page.md.j2", tmp_path, title="a & b") == "# a & b\n\nEnd.\n"
