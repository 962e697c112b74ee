import sys
from pathlib import Path

import pytest

from lightning_gengap.__main__ import main
from lightning_gengap.errors import ConfigurationError
from lightning_gengap.zoo.evaluate.scores import Assessment
from lightning_gengap.zoo.report import figures


def test_figures_are_drawn_for_all_that_has_numbers_and_twice_the_same(assessment: Assessment, tmp_path: Path):
    drawn = figures.draw(assessment, tmp_path / "one")
    names = ("predicted_by_family", "predicted_by_data_set", "coverage", "contributions")
    assert drawn == [f"{name}.png" for name in names]
    figures.draw(assessment, tmp_path / "two")
    for name in drawn:
        content = (tmp_path / "one" / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert content == (tmp_path / "two" / name).read_bytes()


def test_figures_without_matplotlib_are_refused_before_the_long_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(figures, "drawable", lambda: False)
    with pytest.raises(ConfigurationError, match=r"lightning-gengap\[report\]"):
        figures.require()
    assert main(["zoo", "evaluate", str(tmp_path / "absent.csv.gz"), "--figures"]) == 2
    assert "got no matplotlib" in capsys.readouterr().err


def test_evaluating_does_not_import_matplotlib():
    assert "matplotlib" not in vars(sys.modules["lightning_gengap.zoo.evaluate.scores"])
    assert "matplotlib" not in vars(figures)
