"""Tables and columns of pandas that a forward changes are as before, in the same objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from lightning_gengap.undisturbed import tables, undisturbed


def model() -> nn.Module:
    made = nn.Linear(2, 2)
    made.table = pd.DataFrame({"a": [1.0, float("nan")], "b": ["x", "y"]}, index=[3, 4])
    made.column = pd.Series([1, 2, 3])
    made.kinds = pd.Series(pd.Categorical(["u", "v"]))
    return made


def write(own: nn.Module) -> None:
    own.table.loc[3, "a"] += 1
    own.kinds[0] = "v"


def grow(own: nn.Module) -> None:
    own.table["new"] = 5
    own.column[7] = 3


def rename(own: nn.Module) -> None:
    own.table.index = [5, 6]
    own.column.name = "other"


def exchange(own: nn.Module) -> None:
    own.table, own.column = own.table * 2, None


@pytest.mark.parametrize("change", [write, grow, rename, exchange])
def test_a_table_is_the_same_with_its_values_of_before(change: Callable[[nn.Module], None]) -> None:
    own, expected = model(), model()
    held = own.table, own.column, own.kinds
    for _ in range(2):
        with undisturbed(own):
            change(own)
        assert all(now is before for now, before in zip((own.table, own.column, own.kinds), held, strict=True))
        pd.testing.assert_frame_equal(own.table, expected.table)
        pd.testing.assert_series_equal(own.column, expected.column)
        pd.testing.assert_series_equal(own.kinds, expected.kinds)


def test_nothing_is_written_where_nothing_changed() -> None:
    own = model()
    before: Any = own.table._mgr
    with undisturbed(own):
        own(torch.ones(1, 2))
    assert own.table._mgr is before


def test_a_large_table_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_BYTES", 8)
    own = model()
    with undisturbed(own):
        write(own)
    assert own.table.loc[3, "a"] == 2.0
