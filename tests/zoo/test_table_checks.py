import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_gengap.errors import TableError
from lightning_gengap.zoo.table import parsed, read, rows_of
from tests.zoo.tables import rows, table_of

BUNDLED = Path(__file__).parents[2] / "pretrained_predictors"
Rows = list[dict[str, Any]]


def refused(made: Rows, message: str) -> None:
    with pytest.raises(TableError, match=message):
        table_of(made)


def changed(change: Callable[[Rows], object]) -> Rows:
    made = rows(1)
    change(made)
    return made


def times(column: str, factor: float) -> Rows:
    return [row | {column: factor * row[column]} for row in rows(1)]


def test_the_bundled_table_is_accepted():
    assert len(read(BUNDLED / "small_zoo_v3.csv.gz")) == 6091


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (times("measure.train_accuracy", 100), r"measure\.train_accuracy = 9\d\.\d+ in line 2, and 31 more; "),
        (times("measure.difficulty/ridge_accuracy", 100), r"expected fraction in \[0, 1\]\. Divide by 100 what is in"),
        (times("measure.progress", 100), r"measure\.progress = 25 in line 2"),
        (times("gap.test_accuracy", 100), r"gap\.test_accuracy = .* expected in \[0, 1\]"),
        (times("gap.accuracy", 100), r"gap\.accuracy = .* expected in \[-1, 1\]"),
        (times("measure.train_samples", -1), r"measure\.train_samples = -\d+ in .* expected samples of 1 or more"),
        (times("measure.train_loss", -1), r"measure\.train_loss = -\d.* expected nats of 0 or more\. Correct the"),
        (times("gap.test_samples", 0), r"gap\.test_samples = 0 in line 2"),
        (times("epoch", -1), r"epoch = -1 in line 2"),
        (changed(lambda made: made[3].update({"measure.train_loss": -0.5})), r"train_loss = -0\.5 in line 5; expected"),
        (
            changed(lambda made: made[2].update({"gap.train_accuracy": 1.2})),
            r"gap\.train_accuracy = 1\.2 in line 4; ",
        ),
        (
            changed(lambda made: made[2].update({"measure.train_loss": "n/a"})),
            "train_loss 'n/a' in line 4; .* a number",
        ),
        (changed(lambda made: made[2].update({"gap.accuracy": ""})), r"no gap\.accuracy in line 4"),
    ],
)
def test_other_units_and_no_numbers_are_refused(made: Rows, message: str):
    refused(made, message)


def test_rounding_of_the_ends_is_not_refused():
    made = changed(lambda made: made[0].update({"measure.progress": 1.0000001, "measure.train_loss": -1e-8}))
    assert len(table_of(made)) == 32


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([{k: v for k, v in row.items() if k != "gap.accuracy"} for row in rows(1)], r"no column gap\.accuracy"),
        ([row | {"measure.luck": 1.0} for row in rows(1)], r"the measure 'measure\.luck'"),
        (changed(lambda made: made.append(made[0])), "two rows of one run and epoch"),
        (changed(lambda made: made[1].update(task="other")), r"task 'task00' and 'other' \(line 3\) of run 00-0"),
        (
            changed(lambda made: made[3].update({"recipe.family": "vit"})),
            r"recipe\.family 'cnn' and 'vit' \(line 5\) of run 00-0; expected one recipe\.family per run",
        ),
    ],
)
def test_unknown_columns_and_contradictions_are_refused(made: Rows, message: str):
    refused(made, message)


def test_a_repeated_column_is_refused():
    text = io.StringIO()
    made = [row | {"copy": row["gap.accuracy"]} for row in rows(1)]
    writer = csv.writer(text)
    writer.writerow("gap.accuracy" if name == "copy" else name for name in made[0])
    writer.writerows(row.values() for row in made)
    with pytest.raises(TableError, match=r"got two columns gap\.accuracy; expected each column once"):
        parsed(text.getvalue().encode(), Path("made"))


def test_a_gap_other_than_the_difference_of_its_accuracies_is_refused():
    made = [row | {"gap.train_accuracy": round(row["gap.accuracy"] + row["gap.test_accuracy"], 3)} for row in rows(1)]
    assert len(table_of(made)) == 32
    made[4]["gap.accuracy"] += 0.01
    refused(made, r"gap\.accuracy = 0\.\d+ in line 6, where train minus test accuracy is 0\.\d+; expected")
    made[4]["gap.train_accuracy"] = ""
    assert len(table_of(made)) == 32


def test_a_run_under_another_key_is_refused():
    known = rows_of(read(BUNDLED / "small_zoo_v3.csv.gz"))[:400]
    copied = [row | {"run": "copy"} for row in known if row["run"] == known[-1]["run"]]
    refused([*known, *copied], rf"the runs {known[-1]['run']} and copy \(line {len(known) + 2}\) of one task")
    other = [row | {"recipe.seed": "77"} for row in copied]
    assert len(table_of([*known, *other])) == len(known) + len(other)
