import numpy as np
import pytest

from lightning_gengap.errors import TableError
from lightning_gengap.predictors.specification import Specification, Term
from lightning_gengap.zoo.evaluate.held_out import Setting, hold_out_all
from lightning_gengap.zoo.hold_out import hold_out as predictions_of
from lightning_gengap.zoo.splits import development
from tests.zoo.conftest import PLANTED
from tests.zoo.tables import rows, table, table_of


def test_a_method_is_asked_about_rows_that_it_was_not_fitted_to_and_answers_come_in_the_tables_order():
    number, among = np.arange(12), np.arange(12) != 5
    split = [(str(fold), number % 3 != fold, number % 3 == fold) for fold in (2, 0, 1)]
    fitted_to = {}

    def method(fitted: np.ndarray, held: np.ndarray) -> np.ndarray:
        assert not (fitted & held).any()
        assert not (fitted | held)[5]
        if held[0]:
            raise TableError("table", got="few", expected="more", remedy="Wait.")
        fitted_to.update(dict.fromkeys(number[held].tolist(), int(fitted.sum())))
        return np.stack([number[held], -number[held]])

    held = predictions_of(split, among, method, lambda fitted: True, kinds=2, skip=True)
    assert held.rows.tolist() == [1, 2, 4, 7, 8, 10, 11]
    assert held.values.tolist() == [held.rows.tolist(), (-held.rows).tolist()]
    assert fitted_to == {1: 7, 4: 7, 7: 7, 10: 7, 2: 8, 8: 8, 11: 8}
    assert list(held.skipped) == ["0"]
    with pytest.raises(TableError, match="got few"):
        predictions_of(split, among, method, lambda fitted: True, kinds=2)
    nothing = predictions_of(split, among, method, kinds=2)  # fewer than ten rows to fit on
    assert nothing.values.shape == (2, 0)


def test_nothing_of_the_locked_part_is_used_unless_asked_for():
    made = table()
    assert not (Setting.of(made, PLANTED, locked=False).among & ~development(made)).any()
    assert (Setting.of(made, PLANTED, locked=True).among & ~development(made)).any()


def test_a_baseline_that_is_missing_in_most_rows_is_left_out_and_said():
    made = rows()
    for row in made[: 2 * len(made) // 3]:
        row["measure.margin/h2/median"] = ""
    saved = table_of(made)
    setting = Setting.of(saved, PLANTED, locked=True)
    assert setting.left_out == ("Jiang's 20 margin features",)
    assert setting.among.all()
    absent = Specification("absent", (Term("path_norm/log", "identity"),))
    with pytest.raises(TableError, match="no row with all features of absent"):
        Setting.of(saved, absent, locked=True)


def test_a_fold_that_cannot_be_fitted_is_skipped_by_all_with_the_reason():
    made = table(tasks=8)
    few = np.isin(made.words("task"), ["task00", "task01"])
    setting = Setting.of(made, PLANTED, locked=True)
    held, skipped = hold_out_all(setting, [("few", few, ~few), ("many", ~few, few)])
    assert list(skipped) == ["few"]
    assert "at least 20 runs in 5 tasks" in skipped["few"]
    assert all((h.rows == np.flatnonzero(few)).all() for h in held.values())
