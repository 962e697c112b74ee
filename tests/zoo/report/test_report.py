import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_gengap import pretrained_predictors
from lightning_gengap.__main__ import main
from lightning_gengap.errors import ConfigurationError
from lightning_gengap.zoo.evaluate.scores import Assessment
from lightning_gengap.zoo.fit.fit import fit
from lightning_gengap.zoo.fit.loss_head import fit_loss_head
from lightning_gengap.zoo.report import figures
from lightning_gengap.zoo.report.card import card
from lightning_gengap.zoo.report.markdown import aligned, ranged, table
from lightning_gengap.zoo.report.report import report
from lightning_gengap.zoo.table import read, write
from tests.zoo.conftest import PLANTED
from tests.zoo.tables import rows


def sections(text: str) -> dict[str, list[str]]:
    """By title, the lines without the padding of table cells."""
    found: dict[str, list[str]] = {}
    for line in filter(str.strip, text.splitlines()):
        if line.startswith("#"):
            own = found.setdefault(line.strip("# "), [])
        else:
            cells = [cell.strip() for cell in line.split("|")]
            own.append(" | ".join("---" if re.fullmatch(":?-{2,}:?", cell) else cell for cell in cells).strip())
    return found


@pytest.mark.parametrize("name", ["default_v3", "images_v3"])
def test_the_bundled_reports_are_those_of_the_bundled_numbers(name: str):
    folder = Path(pretrained_predictors.__file__).parent / f"evaluation_{name}"
    text, numbers = (folder / "report.md").read_text(), json.loads((folder / "report.json").read_text())
    written, made = sections(text), sections(report(numbers, re.findall(r"\((\w+\.png)\)", text)))
    assert len(made) > 20
    for title, lines in made.items():
        assert lines == written[title][: len(lines)], title  # studies have tables below some of them


def test_report_shows_every_part_with_its_numbers(assessment: Assessment):
    numbers = assessment.report
    text = report(json.loads(json.dumps(numbers, allow_nan=False)), ["coverage.png"])
    made = sections(text)
    for title in ("Held-out error", "Locked part", "Ranking within a task", "Turn within a run", "Stage of training"):
        assert made[title]
    for title in ("Loss gap", "Kinds of runs", "Worst runs", "One family on one data set", "Contributions"):
        assert made[title]
    assert ranged(numbers["loss head"]["splits"]["by task"]["mae"]["planted"], 3) in text
    assert numbers["worst runs"]["all"][0]["run"] in text
    for error in numbers["splits"]["by task"]["mae"].values():
        assert ranged(error, 1) in text
    title = f"Mean over {len(numbers['grids']['grids'])} grids"
    assert any(f"planted | {ranged(numbers['grids']['mean']['planted']['pgdl'], 2)} |" in line for line in made[title])
    assert "all rows, the locked part included" in text
    assert "![coverage](coverage.png)" in text


def test_every_row_of_every_table_has_as_many_cells_as_its_header(assessment: Assessment):
    width = 0
    for line in report(assessment.report).splitlines():
        cells = line.count("|")
        assert cells == 0 or width in (0, cells), line
        width = cells


def test_worst_runs_name_what_misled_and_abstentions_name_no_feature(assessment: Assessment):
    one = {fact: fact for fact in ("run", "task", "family", "source", "train_samples", "noise", "augment")}
    one |= {"train accuracy": 0.9, "test accuracy": 0.5, "error": 30.0, "snapshots": 4, "predicted": 10.0, "actual": 40}
    answered = {"abstained": False, "outside": [], "largest": ["a/b", 3.0], "misled": None}
    abstained = {"abstained": True, "outside": ["train_samples"], "largest": None, "misled": None}
    failures = {"all": [one | abstained, one | answered], "answered": [one | answered]}
    lines = sections(report(assessment.report | {"worst runs": failures}))["Worst runs"]
    assert lines[3].endswith("| 30.0 (4) | 10.0 | 40.0 | abstained | - | train_samples |")
    assert lines[4].endswith("| a/b +3.0 | - | - |")
    assert "Without abstentions:" in lines
    failures["answered"] = []
    assert "Without abstentions:" not in report(assessment.report | {"worst runs": failures})


def test_report_of_a_table_without_locked_part_and_grid_says_so(assessment: Assessment):
    numbers = assessment.report | {
        "locked": {},
        "locked_part_used": False,
        "grids": {},
        "in family": {},
        "loss head": {},
    }
    text = report(numbers)
    assert "the development part alone" in text
    assert "Not scored: needs `--locked`." in text
    assert "The table holds no full grid" in text
    assert "No loss-gap head" in text
    assert "No family has 30 converged runs" in text


def test_undefined_scores_are_dashes_and_tables_are_markdown():
    assert ranged(None, 2) == "-"
    assert ranged([1.234, 0.5, 2.0], 1) == "1.2 [0.5, 2.0]"
    assert table(["a", "b"], [["1", "2.0"]]) == "| a   | b   |\n|:----|:----|\n| 1   | 2.0 |"
    assert aligned("a | b\n\n1 | 2.0\n") == table(["a", "b"], [["1", "2.0"]]) + "\n"
    with pytest.raises(ValueError, match="columns"):
        aligned("a | b\n1 | 2 | 3\n")


def test_card_is_written_from_the_same_scores_and_shows_figures(assessment: Assessment):
    made = assessment.setting.table
    predictor = replace(fit(made, PLANTED), scores=assessment.report)
    text = card(predictor, made, ["planted/coverage.png"])
    assert ranged(assessment.report["splits"]["by task"]["mae"]["planted"], 1) in text
    assert "leave one source out" in text
    assert "![planted/coverage.png](planted/coverage.png)" in text
    assert "## Figures" not in card(predictor, made)
    assert "### Loss gap" not in text
    head = fit_loss_head(made, PLANTED, assessment.setting.among)
    text = card(replace(predictor, loss_head=head), made)
    assert "### Loss gap" in text
    assert ranged(assessment.report["loss head"]["splits"]["by task"]["log mae"]["planted"], 3) in text


def test_card_lists_what_was_fitted_and_what_was_left_out_and_why(assessment: Assessment, tmp_path: Path):
    made = rows(8)  # 64 runs of four snapshots
    for row in made:
        if row["run"] in ("00-0", "00-1", "00-2"):
            row["measure.difficulty/ridge_accuracy"] = ""
        if row["run"] == "01-0" or (row["run"] == "01-1" and row["epoch"] < 3):
            row["measure.train_accuracy"] = 0.3
    write(made, tmp_path / "t.csv.gz")
    whole = read(tmp_path / "t.csv.gz")
    predictor = replace(fit(whole, PLANTED), scores=assessment.report)
    text = card(predictor, whole)
    assert "Of the table's 256 snapshots of 64 runs, 238 snapshots of 60 runs in 8 tasks" in text
    assert predictor.provenance["snapshots"] == 238
    composition = sections(text)["Fitted on"]
    assert "| source | cifar10 13, cifar100 15, digits 16, fashion_mnist 16 |" in composition
    assert "| tasks by source | cifar10 2, cifar100 2, digits 2, fashion_mnist 2 |" in composition
    assert "Left out: 4 runs wholly, 3 for want of a feature (difficulty/ridge_accuracy 3) and 1 whose" in text
    assert "in snapshots, 12 and 6." in text
    sizes = sorted({row["run"]: row["measure.train_samples"] for row in made if row["run"] > "01-0"}.values())
    assert any(line.endswith(f", {sizes[-1]:.0f} |") for line in composition)
    write(rows(8), tmp_path / "all.csv.gz")
    assert "Nothing was left out." in card(predictor, read(tmp_path / "all.csv.gz"))


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


def test_verb_prints_and_writes_report_and_numbers(
    assessment: Assessment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    asked = {}

    def assess(table: object, specification: object, locked: bool) -> Assessment:
        asked.update(specification=specification, locked=locked)
        return assessment

    monkeypatch.setattr("lightning_gengap.zoo.evaluate.scores.assess", assess)
    write(rows(2), tmp_path / "t.csv.gz")
    command = ["zoo", "evaluate", str(tmp_path / "t.csv.gz"), "--out", str(tmp_path / "out"), "--no-figures"]
    assert main([*command, "--predictor", "images_v1"]) == 0
    assert asked["specification"].name == "images_v1"
    assert asked["locked"] is False
    printed, written = capsys.readouterr().out, (tmp_path / "out" / "report.md").read_text()
    assert written in printed
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == assessment.report
    assert not list((tmp_path / "out").glob("*.png"))
