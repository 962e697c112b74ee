"""The study of the sealed part prints each figure once, and the ledger refuses a second time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sealed import LEDGER, compared_pairs, has_learned_enough, kept_epochs, lines, with_held_out

from lightning_gengap import load_predictor
from lightning_gengap.errors import TableError
from lightning_gengap.zoo.sealed import opened_once
from lightning_gengap.zoo.table import read

TABLE = Path(__file__).parents[2] / "pretrained_predictors" / "image_zoo_v2.csv.gz"


def test_what_was_opened_is_not_opened_again(tmp_path: Path) -> None:
    ledger = tmp_path / "opened.tsv"
    ledger.write_text(LEDGER.read_text())
    with pytest.raises(TableError, match="a score before"):
        opened_once(read(TABLE), "images_v5", ledger)
    assert ledger.read_text() == LEDGER.read_text()


def test_each_part_has_a_line_for_each_contender() -> None:
    table, predictor = read(TABLE), load_predictor("images_v5")
    open_rows = table.words("recipe.source") == "digits"
    learned = has_learned_enough(table, predictor, open_rows)
    assert 0 < learned.sum() < open_rows.sum()
    found = lines(table, predictor, learned)
    assert [cells[1] for cells in found] == [predictor.name, "frozen line", "best reference alone"] * 3
    assert {cells[0] for cells in found} == {"last snapshots", "... of sealed architectures", "all snapshots"}
    assert all(np.isfinite(float(cells[4])) for cells in found)
    assert kept_epochs(table, predictor, learned)[0][0] == "runs"
    joined = with_held_out(table, predictor, learned, draws=1)
    assert [cells[0] for cells in joined] == ["0", "50", "50", "100", "100", "200", "200", "500", "500"]
    pairs = compared_pairs(table, predictor, learned, draws=1)
    assert {cells[0].rpartition(" ")[2] for cells in pairs} == {"task", "run"}
    assert [cells[1] for cells in pairs] == ["0", "50", "100", "200"] * 2
    assert all(0 < float(cells[2]) < 0.4 for cells in pairs)
