import json
from pathlib import Path

import pytest

from lightning_gengap.__main__ import main
from lightning_gengap.zoo.evaluate.scores import Assessment
from lightning_gengap.zoo.fit.specifications import SPECIFICATIONS
from lightning_gengap.zoo.report.markdown import ranged
from lightning_gengap.zoo.report.report import report
from lightning_gengap.zoo.table import write
from tests.zoo.report.pages import sections
from tests.zoo.tables import rows


def test_tables_hold_the_numbers_with_a_row_for_each_name(assessment: Assessment):
    numbers = assessment.report
    made = sections(report(numbers))
    (kind, values), *_ = numbers["kinds"].items()
    for value, one in values.items():
        scores = [ranged(one[score], 1) for score in ("mae", "trivial", "signed")] + [ranged(one["skill"], 2)]
        cells = [kind, value or "-", one["rows"], one["runs"], one["tasks"], *scores]
        assert f"| {' | '.join(map(str, cells))} |" in made["Kinds of runs"]
    for name, stage in numbers["stages"].items():
        errors = [stage["mae"]["planted"], stage["mae"]["trivial"], stage["signed"]]
        cells = [name, stage["rows"], *(ranged(error, 1) for error in errors), ranged(stage["skill"], 2)]
        assert f"| {' | '.join(map(str, cells))} |" in made["Stage of training"]
    for name, one in numbers["contributions"].items():
        assert f"| {name} | {ranged(one['mean'], 1)} | {ranged(one['size'], 1)} |" in made["Contributions"]
    for name, grid in numbers["grids"]["grids"].items():
        axes = " x ".join(f"{axis} {levels}" for axis, levels in grid["axes"].items())
        lines = made[f"{name}: {grid['models']} models, {axes}"]
        for key, one in grid["scores"].items():
            scored = ("pgdl", "mean", "worst", "worst_axis", "resolved", "tau")
            assert " | ".join(["| " + key, *(f"{one[s]:.2f}" if s in one else "-" for s in scored)]) + " |" in lines


def test_converged_runs_of_one_family_are_listed(assessment: Assessment):
    one = {"runs": 31, "adjusted R2 in sample": 0.91234, "ten-fold R2": [0.8, 0.7, 0.9]}
    made = sections(report(assessment.report | {"in family": {"cnn on digits: planted": one}}))
    assert "| cnn on digits: planted | 31 | 0.912 | 0.800 [0.700, 0.900] |" in made["One family on one data set"]


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


def test_verb_prints_and_writes_report_and_numbers(
    assessment: Assessment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    asked = {}

    def assess(table: object, specification: object, locked: bool) -> Assessment:
        asked.update(specification=specification, locked=locked)
        return assessment

    monkeypatch.setattr("lightning_gengap.zoo.release.assess", assess)
    write(rows(2), tmp_path / "t.csv.gz")
    command = ["zoo", "evaluate", str(tmp_path / "t.csv.gz"), "--out", str(tmp_path / "out"), "--no-figures"]
    assert main([*command, "--predictor", "images_v3"]) == 0
    assert asked["specification"] == SPECIFICATIONS["images_v3"]
    assert asked["locked"] is False
    printed, written = capsys.readouterr().out, (tmp_path / "out" / "report.md").read_text()
    assert written in printed
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == assessment.report
    assert not list((tmp_path / "out").glob("*.png"))
