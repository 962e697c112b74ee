import gzip
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from lightning_gengap.errors import TableError
from lightning_gengap.zoo.files import sorted_out
from lightning_gengap.zoo.table import collect, joined, read, rows_of, write, write_checked
from lightning_gengap.zoo.train.plans import digits_zoo
from tests.zoo.tables import rows, table_of


def test_same_rows_give_the_same_bytes_and_come_back(tmp_path: Path):
    first, second = tmp_path / "a.csv.gz", tmp_path / "b.csv.gz"
    write(rows(2), first)
    write(rows(2), second)
    assert first.read_bytes() == second.read_bytes()
    table = read(first)
    assert len(table) == 64
    assert table.numbers("gap.accuracy")[0] == pytest.approx(rows(2)[0]["gap.accuracy"], rel=1e-7)


def test_missing_measures_are_nan():
    made = rows(1)
    del made[3]["measure.margin/h2/median"]
    values = table_of(made).numbers("measure.margin/h2/median")
    assert [i for i, value in enumerate(values) if value != value] == [3]


def cells(change: Callable[[list[str]], list[str]]) -> Callable[[bytes], bytes]:
    return lambda whole: gzip.compress("\n".join(change(gzip.decompress(whole).decode().splitlines())).encode())


LENGTHS = "rows of other lengths than the header, or none"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: b"not gzip", "cannot be read"),
        (lambda whole: whole[: len(whole) // 2], "cannot be read"),
        (lambda whole: whole[:40] + bytes(200) + whole[240:], "cannot be read"),
        (cells(lambda lines: []), "got no header"),
        (cells(lambda lines: ["", ""]), "got no header"),
        (cells(lambda lines: ["run,task", "1"]), r"no column recipe\.family"),
        (cells(lambda lines: [*lines[:3], lines[3] + ",0.5", *lines[4:]]), LENGTHS),
        (cells(lambda lines: [*lines[:3], lines[3].rpartition(",")[0], *lines[4:]]), LENGTHS),
        (cells(lambda lines: [*lines[:3], "", *lines[3:]]), LENGTHS),
        (cells(lambda lines: lines[:1]), LENGTHS),
    ],
)
def test_files_that_are_no_whole_tables_are_refused(tmp_path: Path, damage: Callable[[bytes], bytes], message: str):
    write(rows(1), tmp_path / "t.csv.gz")
    (tmp_path / "t.csv.gz").write_bytes(damage((tmp_path / "t.csv.gz").read_bytes()))
    with pytest.raises(TableError, match=message):
        read(tmp_path / "t.csv.gz")


def test_numbers_are_read_to_the_last_digit():
    rng = np.random.default_rng(0)
    texts = [repr(value) for value in (rng.normal(size=32) * 10.0 ** rng.integers(-200, 200, 32)).tolist()]
    made = [row | {"note": cell} for row, cell in zip(rows(1), texts, strict=True)]
    assert table_of(made).numbers("note").tolist() == [float(text) for text in texts]


def test_a_refused_table_is_not_written(tmp_path: Path):
    with pytest.raises(TableError, match=r"gap\.accuracy = 23"):
        write_checked([row | {"gap.accuracy": 23.0} for row in rows(1)], tmp_path / "t.csv.gz")
    assert not list(tmp_path.iterdir())
    made, back = write_checked(rows(1), tmp_path / "t.csv.gz"), read(tmp_path / "t.csv.gz")
    assert made.columns.equals(back.columns)
    assert made.sha256 == back.sha256


def test_tables_join_and_an_agreeing_snapshot_counts_once():
    both = table_of(
        joined(rows_of(table_of(rows(2))), rows(2), [{**row, "run": f"new {row['run']}"} for row in rows(1)])
    )
    assert len(both) == len(rows(2)) + len(rows(1))
    assert [both.words("task").tolist()] == [sorted(both.words("task").tolist())]


def test_joining_adds_columns_to_known_snapshots():
    one = [{"run": "a", "task": "t", "epoch": 1.0, "x": 1.0}]
    assert joined(one, [{"run": "a", "task": "t", "epoch": 1, "y": 2.0}]) == [
        {"run": "a", "task": "t", "epoch": 1, "x": 1.0, "y": 2.0}
    ]


def test_tables_without_epochs_join():
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
