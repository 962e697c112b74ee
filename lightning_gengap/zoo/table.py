"""Runs to one table: a gzipped CSV whose column prefixes tell the role (`recipe.`, `measure.`, `gap.`)."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.errors import TableError
from lightning_gengap.measures import MEASURED
from lightning_gengap.measures.derived import derived
from lightning_gengap.zoo.files import sorted_out
from lightning_gengap.zoo.frames import pd
from lightning_gengap.zoo.table_checks import bad, check_cells, check_values
from lightning_gengap.zoo.train.recipe import described, recipe_of

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Table:
    """Snapshots as rows.

    Attributes:
        columns: a data frame of all cells as text; what was not measured is empty.
        sha256: of the CSV text.
    """

    columns: pd.DataFrame
    sha256: str
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [str(name) for name in self.columns]

    def numbers(self, column: str) -> Floats:
        """A column as floats, NaN where empty or where the table has no such column."""

        def parsed() -> Floats:
            if column not in self.columns:
                return np.full(len(self), math.nan)
            return np.array([float(cell) if cell else math.nan for cell in self.columns[column].tolist()])

        return self.once(column, parsed)

    def measured(self, keys: Iterable[str], rows: Mask) -> dict[str, Floats]:
        """The values of measured keys in some rows, by key."""
        return {key: self.numbers(f"measure.{key}")[rows] for key in keys}

    def words(self, column: str) -> NDArray[np.str_]:
        """A column as text."""
        return self.once(f"words of {column}", lambda: np.array(self.columns[column].tolist()))

    def codes(self, column: str) -> Rows:
        """A column of text as numbers 0, 1, ... in the order of its sorted values, which are quick to compare."""
        return self.once(f"codes of {column}", lambda: np.unique(self.words(column), return_inverse=True)[1])

    def count(self, column: str, rows: Mask) -> int:
        """The number of different values in some rows."""
        return len(np.unique(self.codes(column)[rows]))

    def once(self, name: str, make: Callable[[], Found]) -> Found:
        """What `make` returns, made at the first request and kept under the name."""
        if name not in self._cache:
            self._cache[name] = make()
        found: Found = self._cache[name]
        return found

    def with_numbers(self, column: str, values: Floats) -> Table:
        """The same rows with one more column of numbers, or with another one in its place."""
        return replace(self, _cache=self._cache | {column: values})


def check_present(table: Table, columns: Iterable[str], purpose: str, instead: str) -> None:
    """Raise a TableError that names the columns without any value, their purpose and what can be done instead."""
    absent = [column for column in dict.fromkeys(columns) if not np.isfinite(table.numbers(column)).any()]
    if not absent:
        return
    keys = [column.removeprefix("measure.") for column in absent if column.startswith("measure.")]
    measures = sorted({MEASURED[key].measure for key in keys} - {"", "fit"})
    first = "Train with `gengap zoo run`"
    if measures:
        first = f"Measure with `gengap zoo remeasure RUNS --measures {' '.join(measures)}`"
    raise TableError(
        "table",
        got=f"no value of {', '.join(absent)}",
        expected=f"these columns, for {purpose}",
        remedy=f"{first} and write the table with `gengap zoo table`, or {instead}.",
    )


def collect(runs: Path) -> list[dict[str, Any]]:
    """Rows of all whole runs in a folder; files of others are passed over (`files.sorted_out` lists them)."""
    rows: list[dict[str, Any]] = []
    for path in sorted_out(runs)[0]:
        content = json.loads(path.read_text())
        recipe = recipe_of(content["recipe"])
        task = described(recipe.task) | {"classes": " ".join(map(str, recipe.task.classes))}
        task_key = hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()[:8]
        facts = {**asdict(recipe.task), **asdict(recipe), "classes": task["classes"]}
        columns = {f"recipe.{key}": value for key, value in facts.items() if key != "task"}
        for row in content["rows"]:
            row.pop("taken", None)
            rows.append({"run": content["key"], "task": task_key, **columns, **row, **_derived(row)})
    if not rows:
        raise TableError(
            "runs", got=f"no whole run in {runs}", expected="files <key>.json", remedy="`gengap zoo run` first."
        )
    return rows


def joined(*parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of several tables or folders in one, ordered by task, run and snapshot; a snapshot that agrees once.

    Derived measures that a row lacks are added. A snapshot with two values for a column is a TableError.
    """
    found: dict[tuple[str, float], dict[str, Any]] = {}
    for row in (row for rows in parts for row in rows):
        key = (str(row["run"]), float(row.get("epoch", 0)))  # a table of one row per run may lack it
        known = found.setdefault(key, {})
        for column, value in row.items():
            if column in known and _cell(known[column]) != _cell(value):
                raise TableError(
                    f"run {key[0]}, epoch {key[1]:g}",
                    got=f"two values of {column}: {_cell(known[column])} and {_cell(value)}",
                    expected="one result per run and snapshot",
                    remedy="Leave out one of the sources, or train the run again.",
                )
            known[column] = value
    for row in found.values():  # what this version derives and an older table lacks
        row |= {column: value for column, value in _derived(row).items() if column not in row}
    return [found[key] for key in sorted(found, key=lambda key: (str(found[key]["task"]), *key))]


def _derived(row: dict[str, Any]) -> dict[str, float]:
    measured = {name.removeprefix("measure."): float(cell) for name, cell in row.items() if name.startswith("measure.")}
    return {f"measure.{name}": value for name, value in derived(measured).items()}


def rows_of(table: Table) -> list[dict[str, Any]]:
    """The rows of a table, without their empty cells."""
    rows = table.columns.itertuples(index=False, name=None)
    return [{name: cell for name, cell in zip(table.names, row, strict=True) if cell} for row in rows]


def text_of(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as CSV; the same rows always give the same bytes."""
    cells = pd.DataFrame([{column: _cell(value) for column, value in row.items()} for row in rows])
    return cells.to_csv(index=False, lineterminator="\n").encode()


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows as a gzipped CSV, unchecked."""
    path.write_bytes(gzip.compress(text_of(rows), mtime=0))


def write_checked(rows: Sequence[dict[str, Any]], path: Path) -> Table:
    """Write rows as a gzipped CSV and return the table; nothing is written where `read` would refuse it."""
    table = parsed(text_of(rows), path)
    write(rows, path)
    return table


def read(path: Path) -> Table:
    """Read a table; a TableError says what `table_checks` finds wrong with it."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None
    return parsed(raw, path)


def parsed(raw: bytes, path: Path) -> Table:
    """The table that is CSV text, checked as by `read`."""
    try:
        lines = list(csv.reader(io.StringIO(raw.decode(), newline="")))  # pandas would pad short lines unseen
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from None
    check_cells(lines, path)
    table = Table(pd.DataFrame(lines[1:], columns=lines[0]), hashlib.sha256(raw).hexdigest())
    check_values(table.columns, table.numbers, path)
    return table


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.8g}"
    return str(value)


def _unreadable(path: Path, error: Exception) -> TableError:
    return bad(path, f"a file that cannot be read ({error})", "a gzipped CSV")
