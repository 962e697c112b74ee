import json
from pathlib import Path

import pytest

from lightning_gengap.errors import MeasureError, TableError
from lightning_gengap.zoo.table import collect, read, write
from lightning_gengap.zoo.train import run as stage
from lightning_gengap.zoo.train.remeasure import remeasure
from tests.zoo.train.recipes import small


@pytest.fixture
def run(tmp_path: Path) -> Path:
    stage.run(small(), None, tmp_path, keep_weights=True)
    return tmp_path / f"{small().key}.json"


def test_measures_agree_with_those_taken_in_training(run: Path):
    content = json.loads(run.read_text())
    trained = [dict(row) for row in content["rows"]]
    for row in content["rows"]:
        for key in [key for key in row if "margin/" in key or "difficulty/n" in key]:
            del row[key]
    run.write_text(json.dumps(content))
    assert remeasure(run, ["margin", "difficulty"], None)
    for before, after in zip(trained, json.loads(run.read_text())["rows"], strict=True):
        assert set(before) <= set(after)
        assert {key: after[key] for key in before} == pytest.approx(before, rel=1e-4, abs=1e-6)


def test_further_measures_reach_the_table_and_are_taken_once(run: Path, tmp_path: Path):
    assert remeasure(run, ["distance"], None, last_only=True)
    assert not remeasure(run, ["distance"], None, last_only=True)
    assert remeasure(run, ["distance"], None)
    write(collect(tmp_path), tmp_path / "t.csv.gz")
    columns = [name for name in read(tmp_path / "t.csv.gz").columns if name.startswith("measure.distance/")]
    assert columns
    distances = read(tmp_path / "t.csv.gz").numbers(columns[0])
    assert (distances > 0).all()


def test_a_run_without_weights_says_how_to_keep_them(tmp_path: Path):
    stage.run(small(1), None, tmp_path)
    with pytest.raises(TableError, match="--keep-weights"):
        remeasure(tmp_path / f"{small(1).key}.json", ["distance"], None)


def test_measures_of_the_task_need_no_weights(tmp_path: Path):
    stage.run(small(), None, tmp_path)
    path = tmp_path / f"{small().key}.json"
    content = json.loads(path.read_text())
    before = [row.pop("measure.difficulty/ridge_accuracy") for row in content["rows"]]
    path.write_text(json.dumps(content))
    assert remeasure(path, ["difficulty", "input_difficulty"], None)
    rows = json.loads(path.read_text())["rows"]
    assert [row["measure.difficulty/ridge_accuracy"] for row in rows] == before
    assert all(0 < row["measure.input_difficulty/ridge_accuracy"] <= 1 for row in rows)


def test_unknown_measures_leave_the_run_as_it_was(run: Path):
    before = run.read_text()
    with pytest.raises(MeasureError, match="'distanse'"):
        remeasure(run, ["distanse"], None)
    assert run.read_text() == before


def test_a_cut_file_says_how_to_repeat_the_run(tmp_path: Path):
    (tmp_path / "cut.json").write_text('{"key": "cut", "rows": [{"epo')
    with pytest.raises(TableError, match=r"run cut: got no whole run .* Repeat it with `gengap zoo run`"):
        remeasure(tmp_path / "cut.json", ["distance"], None)
