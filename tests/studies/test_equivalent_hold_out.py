"""The study counts tasks, states errors in points, and parts small test sets from large ones."""

from __future__ import annotations

import numpy as np
from equivalent_hold_out import worth

from tests.zoo.tables import rows, table_of


def test_each_part_and_contender_has_a_line() -> None:
    made = rows(16, noise=0.3)
    small = {row["task"] for row in made[: len(made) // 4]}
    for row in made:
        row["gap.test_samples"] = 500.0 if row["task"] in small else 4000.0
    table = table_of(made)
    chosen = np.arange(len(table))
    actual = table.numbers("measure.train_accuracy") - table.numbers("gap.test_accuracy")
    lines = worth(table, chosen, {"exact": actual, "off": actual + 0.03})
    by = {(part, name): cells for part, name, *cells in lines}
    assert set(by) == {
        (part, name)
        for part in ("last snapshots", "last snapshots, few test samples", "all snapshots")
        for name in ("exact", "off")
    }
    tasks = [int(by[part, "off"][0]) for part in ("last snapshots", "last snapshots, few test samples")]
    assert tasks == [16 - len(small), len(small)]
    for part in ("last snapshots", "all snapshots"):
        assert by[part, "exact"][2] == "0.00"
        assert by[part, "exact"][4].startswith("inf")
        assert by[part, "off"][2:4] == ["3.00", "+3.00"]
