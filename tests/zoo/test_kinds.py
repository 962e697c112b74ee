from __future__ import annotations

import numpy as np

from lightning_gengap.zoo.kinds import kind_of_data, lacking
from tests.zoo.tables import rows, table_of


def test_every_source_is_of_one_kind() -> None:
    sources = {"cifar10": "image", "ring": "table", "trec": "text", "breast_cancer": "table", "gaussians": "table"}
    made = rows(1)[: len(sources)]
    for row, source in zip(made, sources, strict=True):
        row["recipe.source"] = row["run"] = row["task"] = source
    assert kind_of_data(table_of(made)).tolist() == list(sources.values())


def test_says_what_no_row_is_of() -> None:
    made = rows(4)
    everywhere = np.ones(len(made), bool)
    assert lacking(table_of(made), everywhere) == ["tables", "texts", "label smoothing", "mixed labels"]
    for place, row in enumerate(made):
        row["recipe.source"] = "ring" if place < 4 else "sst2"
        row["recipe.mixup"], row["recipe.label_smoothing"] = 0.2 * (place < 4), 0.0
    table = table_of(made)
    assert lacking(table, everywhere) == ["images", "label smoothing"]
    assert lacking(table, np.arange(len(made)) >= 4) == ["images", "tables", "label smoothing", "mixed labels"]
