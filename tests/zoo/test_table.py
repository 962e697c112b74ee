import gzip
from pathlib import Path
from typing import Any

import pytest

from lightning_gengap.errors import TableError
from lightning_gengap.zoo.table import collect, joined, read, rows_of, write
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


def changed(change: Any) -> list[dict[str, Any]]:
    made = rows(1)
    change(made)
    return made


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([{k: v for k, v in row.items() if k != "gap.accuracy"} for row in rows(1)], "no column gap.accuracy"),
        ([row | {"measure.luck": 1.0} for row in rows(1)], "the measure 'measure.luck'"),
        (changed(lambda made: made[0].update({"gap.accuracy": 23.0})), "gaps up to 23"),
        (changed(lambda made: made.append(made[0])), "two rows of one run and epoch"),
    ],
)
def test_unusable_tables_are_refused(tmp_path: Path, made: list[dict[str, Any]], message: str):
    write(made, tmp_path / "t.csv.gz")
    with pytest.raises(TableError, match=message):
        read(tmp_path / "t.csv.gz")


def test_a_file_that_is_no_table_is_refused(tmp_path: Path):
    (tmp_path / "t.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(TableError, match="cannot be read"):
        read(tmp_path / "t.csv.gz")
    (tmp_path / "ragged.csv.gz").write_bytes(gzip.compress(b"run,task\n1\n"))
    with pytest.raises(TableError):
        read(tmp_path / "ragged.csv.gz")


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


def test_contradictory_results_of_one_run_are_refused():
    one = {"run": "a", "task": "t", "epoch": 1.0, "gap.accuracy": 0.1}
    with pytest.raises(TableError, match=r"run a, epoch 1: got two values of gap\.accuracy: 0\.1 and 0\.2"):
        joined([one], [{**one, "gap.accuracy": 0.2}])
