"""How rows are held out, everywhere: fit a method on the other rows of a split, and ask it about the held ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from lightning_gengap.errors import TableError
from lightning_gengap.zoo.splits import Split
from lightning_gengap.zoo.table import Floats, Mask, Rows

Method = Callable[[Mask, Mask], Floats]  # rows to fit on, rows to predict -> (kinds, predicted rows)
FEWEST_ROWS = 10


@dataclass(frozen=True)
class Held:
    """What a method says of held-out rows, in the table's order: values of shape (kinds, rows).

    `skipped` tells by name why the method refused a split.
    """

    rows: Rows
    values: Floats
    skipped: dict[str, str]


def anything(fitted: Mask) -> bool:
    """Every split is offered to the method, which refuses what it cannot fit."""
    return True


def some_rows(fitted: Mask) -> bool:
    """At least ten rows to fit on."""
    return bool(fitted.sum() >= FEWEST_ROWS)


def hold_out(
    split: Iterable[Split],
    among: Mask,
    method: Method,
    enough: Callable[[Mask], bool] = some_rows,
    kinds: int = 1,
    skip: bool = False,
) -> Held:
    """Predictions for the held rows of each split, `kinds` a row, by a method that was fitted without them.

    Only rows of `among` take part. Splits that do not leave `enough` rows to fit on are left out. With `skip`, so are
    those that the method refuses.
    """
    rows, values, skipped = [np.zeros(0, np.int64)], [np.zeros((kinds, 0))], {}
    for name, fitted, held in split:
        if not (held & among).any() or not enough(fitted & among):
            continue
        try:
            predicted = method(fitted & among, held & among)
        except TableError as error:
            if not skip:
                raise
            skipped[name] = str(error)
            continue
        rows.append(np.flatnonzero(held & among))
        values.append(np.atleast_2d(predicted))
    every = np.concatenate(rows)
    order = np.argsort(every, kind="stable")
    return Held(every[order], np.concatenate(values, axis=1)[:, order], skipped)
