"""The study of image predictors has a line for each contender, and both data sets are listed."""

from __future__ import annotations

from images import TABLE, page

from lightning_gengap.zoo.table import read


def test_every_contender_is_listed_beside_the_same_rows() -> None:
    lines = [line for line in page(read(TABLE)) if line[0] == "32 x 32, last snapshots"]
    assert len(lines) == 9
    counts = {line[1]: line[3] for line in lines}
    measured = counts.pop("`images_v3`, as bundled")  # its features were measured in some of the runs
    assert max(map(int, counts.values())) - min(map(int, counts.values())) <= 1  # a fit may abstain on a run
    assert int(measured) < int(counts["frozen line"])
    errors = {line[1]: float(line[4]) for line in lines}
    assert errors["`images_v5`, task left out"] < min(errors["frozen line"], errors["best reference alone"])
