import gzip
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from lightning_gengap.errors import ConfigurationError, TableError
from lightning_gengap.zoo.files import sorted_out
from lightning_gengap.zoo.table import collect, joined, read, rows_of, text_of, write, write_checked
from lightning_gengap.zoo.train.plans import digits_zoo
from tests.zoo.tables import rows


def test_same_rows_give_the_same_bytes_and_come_back(tmp_path: Path):
    first, second = tmp_path / "a.csv.gz", tmp_path / "b.csv.gz"
    write(rows(2), first)
    write(rows(2), second)
    assert first.read_bytes() == second.read_bytes()
    table = read(first)
    assert len(table) == 64
    assert table.numbers("gap.accuracy")[0] == pytest.approx(rows(2)[0]["gap.accuracy"], rel=1e-7)


def test_missing_measures_are_nan(tmp_path: Path):
    made = rows(1)
    del made[3]["measure.margin/h2/median"]
    write(made, tmp_path / "t.csv.gz")
    values = read(tmp_path / "t.csv.gz").numbers("measure.margin/h2/median")
    assert [i for i, value in enumerate(values) if value != value] == [3]


def test_a_file_that_is_no_table_is_refused(tmp_path: Path):
    (tmp_path / "t.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(TableError, match="cannot be read"):
        read(tmp_path / "t.csv.gz")
    (tmp_path / "ragged.csv.gz").write_bytes(gzip.compress(b"run,task\n1\n"))
    with pytest.raises(TableError, match=r"no column recipe\.family"):
        read(tmp_path / "ragged.csv.gz")


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda lines: [*lines[:3], lines[3] + ",0.5", *lines[4:]], "rows of other lengths than the header"),
        (lambda lines: [*lines[:3], lines[3].rpartition(",")[0], *lines[4:]], "rows of other lengths than the header"),
        (lambda lines: [*lines[:3], "", *lines[3:]], "rows of other lengths than the header"),
        (lambda lines: lines[:1], "rows of other lengths than the header, or none"),
    ],
)
def test_rows_of_other_lengths_are_refused(tmp_path: Path, cut: Callable[[list[str]], list[str]], message: str):
    lines = text_of(rows(1)).decode().splitlines()
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress("\n".join(cut(lines)).encode()))
    with pytest.raises(TableError, match=message):
        read(tmp_path / "t.csv.gz")


def test_numbers_are_read_to_the_last_digit(tmp_path: Path):
    rng = np.random.default_rng(0)
    cells = [repr(value) for value in (rng.normal(size=32) * 10.0 ** rng.integers(-200, 200, 32)).tolist()]
    made = [row | {"note": cell} for row, cell in zip(rows(1), cells, strict=True)]
    write(made, tmp_path / "t.csv.gz")
    assert read(tmp_path / "t.csv.gz").numbers("note").tolist() == [float(cell) for cell in cells]


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_a_table_of_nothing_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(content))
    with pytest.raises(TableError, match="got no header"):
        read(tmp_path / "t.csv.gz")


def test_a_damaged_file_is_refused(tmp_path: Path):
    write(rows(1), tmp_path / "t.csv.gz")
    whole = (tmp_path / "t.csv.gz").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:40] + bytes(200) + whole[240:]):
        (tmp_path / "t.csv.gz").write_bytes(damaged)
        with pytest.raises(TableError, match="cannot be read"):
            read(tmp_path / "t.csv.gz")


def test_a_refused_table_is_not_written(tmp_path: Path):
    with pytest.raises(TableError, match=r"gap\.accuracy = 23"):
        write_checked([row | {"gap.accuracy": 23.0} for row in rows(1)], tmp_path / "t.csv.gz")
    assert not list(tmp_path.iterdir())
    made, back = write_checked(rows(1), tmp_path / "t.csv.gz"), read(tmp_path / "t.csv.gz")
    assert made.columns.equals(back.columns)
    assert made.sha256 == back.sha256


def test_collecting_an_empty_folder_says_what_to_do(tmp_path: Path):
    with pytest.raises(TableError, match="gengap zoo run"):
        collect(tmp_path)


def test_tables_join_and_an_agreeing_snapshot_counts_once(tmp_path: Path):
    write(rows(2), tmp_path / "t.csv.gz")
    table = read(tmp_path / "t.csv.gz")
    again = joined(rows_of(table), rows(2), [{**row, "run": f"new {row['run']}"} for row in rows(1)])
    write(again, tmp_path / "both.csv.gz")
    both = read(tmp_path / "both.csv.gz")
    assert len(both) == len(rows(2)) + len(rows(1))
    assert [both.words("task").tolist()] == [sorted(both.words("task").tolist())]


def test_joining_adds_columns_to_known_snapshots():
    one = [{"run": "a", "task": "t", "epoch": 1.0, "x": 1.0}]
    assert joined(one, [{"run": "a", "task": "t", "epoch": 1, "y": 2.0}]) == [
        {"run": "a", "task": "t", "epoch": 1, "x": 1.0, "y": 2.0}
    ]


def test_tables_without_epochs_join(tmp_path: Path):
    assert joined([{"run": "a", "task": "t"}], [{"run": "b", "task": "t"}]) == [
        {"run": "a", "task": "t"},
        {"run": "b", "task": "t"},
    ]


def test_files_of_no_whole_run_are_passed_over(tmp_path: Path):
    recipe = next(iter(digits_zoo(1)))
    whole = {"key": "whole", "recipe": asdict(recipe), "rows": [{"epoch": 1.0, "gap.accuracy": 0.1}]}
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    (tmp_path / "cut.json").write_text(json.dumps(whole)[:-30])
    (tmp_path / "other.json").write_text("[1, 2]")
    assert [row["run"] for row in collect(tmp_path)] == ["whole"]
    assert sorted_out(tmp_path) == ([tmp_path / "whole.json"], [tmp_path / "cut.json", tmp_path / "other.json"])


def test_contradictory_results_of_one_run_are_refused():
    one = {"run": "a", "task": "t", "epoch": 1.0, "gap.accuracy": 0.1}
    with pytest.raises(TableError, match=r"run a, epoch 1: got two values of gap\.accuracy: 0\.1 and 0\.2"):
        joined([one], [{**one, "gap.accuracy": 0.2}])


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.delitem(sys.modules, "lightning_gengap.zoo.frames")
    with pytest.raises(ConfigurationError, match=r"lightning-gengap\[zoo\]"):
        importlib.import_module("lightning_gengap.zoo.frames")
