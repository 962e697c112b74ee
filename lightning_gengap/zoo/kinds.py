"""What kind of data a run is of, and which kinds of runs some rows hold none of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.zoo.table import Mask, Table
from lightning_gengap.zoo.train.synthetic import SYNTHETIC
from lightning_gengap.zoo.train.tables import EMBEDDED, KEEL
from lightning_gengap.zoo.train.texts import TEXTS

TABLES = (*KEEL, *EMBEDDED, *SYNTHETIC, "breast_cancer")


def kind_of_data(table: Table) -> NDArray[np.str_]:
    """`table`, `text` or `image` for every row."""
    source = table.words("recipe.source")
    kind: NDArray[np.str_] = np.where(
        np.isin(source, TABLES), "table", np.where(np.isin(source, list(TEXTS)), "text", "image")
    )
    return kind


def lacking(table: Table, rows: Mask) -> list[str]:
    """In words, what users train and none of these rows is of."""
    kind = kind_of_data(table)[rows]
    words = {"image": "images", "table": "tables", "text": "texts"}
    found = [name for one, name in words.items() if not (kind == one).any()]
    changes = {"recipe.label_smoothing": "label smoothing", "recipe.mixup": "mixed labels"}
    return found + [name for column, name in changes.items() if not _any_above_zero(table, column, rows)]


def _any_above_zero(table: Table, column: str, rows: Mask) -> bool:
    return column in table.columns and bool((np.nan_to_num(table.numbers(column)[rows]) > 0).any())
