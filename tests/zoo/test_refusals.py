"""What is missing is said at once; a score is made unreachable, so that a test that gets so far fails."""

from pathlib import Path
from typing import Any

import pytest

from lightning_gengap.__main__ import main
from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.fit.specifications import SPECIFICATIONS
from lightning_gengap.zoo.table import write
from tests.tiny_predictors import tiny_predictor
from tests.zoo.tables import rows

SPECIFICATION = Specification("planted", (Term("difficulty/ridge_accuracy"), Term("margin/input/median", "log")))


@pytest.fixture(autouse=True)
def no_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: Any) -> None:
        raise AssertionError("the long work began")

    monkeypatch.setitem(SPECIFICATIONS, "planted", SPECIFICATION)
    monkeypatch.setattr(
        "lightning_gengap.zoo.release.load_predictor", lambda _: tiny_predictor(specification=SPECIFICATION)
    )
    monkeypatch.setattr("lightning_gengap.zoo.evaluate.scores.split_scores", reached)
    monkeypatch.setattr("lightning_gengap.zoo.release.fit_with_head", reached)


def saved(folder: Path, tasks: int = 24, without: tuple[str, ...] = ()) -> str:
    write([{k: v for k, v in row.items() if k not in without} for row in rows(tasks)], folder / "t.csv.gz")
    return str(folder / "t.csv.gz")


@pytest.mark.parametrize(
    ("stage", "without", "message"),
    [
        ("fit", "measure.margin/input/median", "no value of measure.margin/input/median"),
        ("fit", "measure.difficulty/ridge_accuracy", "remeasure RUNS --measures difficulty` and write"),
        ("fit", "gap.test_accuracy", "no value of gap.test_accuracy"),
        ("evaluate", "measure.difficulty/ridge_accuracy", "no value of measure.difficulty/ridge_accuracy"),
        ("evaluate", "gap.test_accuracy", "no value of gap.test_accuracy"),
        ("evaluate", "measure.progress", "no value of measure.progress"),
    ],
)
def test_absent_columns_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, without: str, message: str
):
    out = tmp_path / "out.json"
    named = ["--name", "planted"] if stage == "fit" else ["--predictor", "planted", "--no-figures"]
    assert main(["zoo", stage, saved(tmp_path, without=(without,)), *named, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_row_without_test_accuracy_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = rows()
    made[6]["gap.test_accuracy"] = ""
    write(made, tmp_path / "t.csv.gz")
    command = ["zoo", "evaluate", str(tmp_path / "t.csv.gz"), "--no-figures", "--predictor", "planted"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "no gap.test_accuracy in 1 of 768 rows, the first of them in line 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("locked", "message"),
    [
        ((), "tasks of the development part (all but the locked tasks, source and family) (the table has 24 runs in 3"),
        (("--locked",), "got 24 usable runs in 3 tasks of the whole table"),
    ],
)
def test_too_few_tasks_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], locked: tuple[str, ...], message: str
):
    command = ["zoo", "evaluate", saved(tmp_path, tasks=3), "--predictor", "planted", "--no-figures", *locked]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_grid_that_no_run_belongs_to_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    group = SPECIFICATIONS["cifar10_cnn_small_v1"]
    features = {f"measure.{term.name}": 0.5 for term in group.features}
    write([features | row for row in rows()], tmp_path / "t.csv.gz")
    command = ["zoo", "fit", str(tmp_path / "t.csv.gz"), "--name", group.name, "--no-scores"]
    assert main([*command, "--out", str(tmp_path / "out.json")]) == 2
    assert "no run with a recipe.grid that begins with cifar10_cnn" in capsys.readouterr().err
