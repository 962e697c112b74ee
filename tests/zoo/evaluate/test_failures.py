import numpy as np
import pytest

from lightning_gengap.zoo.evaluate.failures import failures, worst_runs
from lightning_gengap.zoo.evaluate.held_out import Setting, hold_out
from lightning_gengap.zoo.evaluate.scores import Assessment
from lightning_gengap.zoo.splits import by_task
from tests.zoo.conftest import PLANTED
from tests.zoo.tables import rows, table_of


def test_the_run_whose_feature_is_wrong_is_the_worst_and_that_feature_misled():
    made = rows(12)
    for row in made:
        if row["run"] == "05-3":
            row["measure.difficulty/ridge_accuracy"] = 0.69 if row["measure.difficulty/ridge_accuracy"] < 0.5 else 0.31
    setting = Setting.of(table_of(made), PLANTED, locked=True)
    split = list(by_task(setting.table))
    held = hold_out(setting.table, PLANTED, split, setting.among)
    listed = worst_runs(setting, split, held)
    assert len(listed) == 10
    assert [one["error"] for one in listed] == sorted((one["error"] for one in listed), reverse=True)
    assert all((one["misled"] is None) == one["abstained"] == (one["task"] == "task04") for one in listed)  # too small
    worst = next(one for one in listed if not one["abstained"])
    assert (worst["run"], worst["task"], worst["snapshots"], worst["epoch"]) == ("05-3", "task05", 4, 4)
    assert worst["misled"][0] == "difficulty/ridge_accuracy"
    assert worst["misled"][1] * (worst["predicted"] - worst["actual"]) > 0
    own = setting.table.words("run")[held.rows] == "05-3"
    errors = 100 * np.abs(held.gap - setting.table.numbers("gap.accuracy")[held.rows])
    assert worst["error"] == pytest.approx(errors[own].mean(), abs=1e-3)
    assert worst["train accuracy"] - worst["test accuracy"] == pytest.approx(worst["actual"] / 100, abs=2e-4)
    assert worst_runs(setting, split, held, 3) == listed[:3]
    abstained = next(one for one in listed if one["abstained"])
    assert abstained["outside"] == ["train_samples"]
    found = failures(setting, split, held)
    assert found["all"] == listed
    assert found["answered"][0] == worst
    assert not any(one["abstained"] for one in found["answered"])


def test_kinds_of_runs_add_up_to_all_rows_and_to_the_error_by_task(assessment: Assessment):
    by_task = assessment.report["splits"]["by task"]
    for kind, values in assessment.report["kinds"].items():
        assert sum(one["rows"] for one in values.values()) == by_task["rows"], kind
        mean = sum(one["rows"] * one["mae"][0] for one in values.values()) / by_task["rows"]
        assert mean == pytest.approx(by_task["mae"]["planted"][0], abs=1e-3)
    assert set(assessment.report["kinds"]) == {"family", "source", "augment", "noise", "optimizer"}
