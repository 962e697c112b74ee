"""The sealed part of the third zoo: what no choice and no fit sees before a predictor is scored on it, once.

docs/protocol.md says how it was drawn and names it by a hash. The draw is repeated here; `SEALED_SHA256` holds it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import numpy as np

from lightning_gengap.errors import TableError
from lightning_gengap.zoo.table import Mask, Table
from lightning_gengap.zoo.train.tables import KEEL

SALT = "lightning-gengap, sealed part of the third zoo"
# What was drawn from. The images of `optdigits` are among the embedded digits, which were looked at before.
TABLES = tuple(name for name in sorted(KEEL) if name != "optdigits")
FAMILIES = (("convnext", "mixer"), ("embedding_bag", "text_convolution", "text_lstm", "text_transformer"))
NAMED_SOURCES = ("fashion_mnist", "trec")  # these two were not drawn
SEALED_TABLES = 5
# Of the first two tasks of `colour`: their test accuracies were seen while changed copies of images were tried.
LOOKED_AT = ("454e69f32aabbf48", "9f843115a1120a2a", "a9fc199d5edb9d13", "bef4d104ebc8dd77")
SEALED_SHA256 = "c9707af90b8d542c12f1b05e24b9220f3b47f10262712cacfaf8dca182300b57"


def lowest(names: Iterable[str], count: int) -> list[str]:
    """The names whose salted hashes are the smallest: a draw that the salt determines."""
    return sorted(names, key=_hash)[:count]


def sealed_sources() -> frozenset[str]:
    """The names of the sealed data sets."""
    return frozenset([*lowest(TABLES, SEALED_TABLES), *NAMED_SOURCES])


def sealed_families() -> frozenset[str]:
    """The names of the sealed architectures: one for images and one for texts."""
    return frozenset(name for kind in FAMILIES for name in lowest(kind, 1))


def digest() -> str:
    """The hash of all sealed names in their order, with the salt; equal to `SEALED_SHA256`."""
    return _hash(",".join(sorted(sealed_sources() | sealed_families())))


def akin_to_sealed(table: Table) -> Mask:
    """Rows of sealed sources and families, of any plan."""
    sources, families = sorted(sealed_sources()), sorted(sealed_families())
    return np.isin(table.words("recipe.source"), sources) | np.isin(table.words("recipe.family"), families)


def sealed(table: Table) -> Mask:
    """The sealed rows: those of sealed sources and families in plans of the third zoo.

    Older plans were looked at, and so were the runs of `LOOKED_AT`.
    """
    if "recipe.plan" not in table.columns:
        return np.zeros(len(table), bool)
    unseen = (table.words("recipe.plan") != "") & ~np.isin(table.words("run"), LOOKED_AT)
    return table.once("sealed", lambda: akin_to_sealed(table) & unseen)


def kept_from_fits(table: Table) -> Mask:
    """Of a table with sealed rows, all that is akin to them, lest a fit knows their data sets from elsewhere."""
    return akin_to_sealed(table) if sealed(table).any() else np.zeros(len(table), bool)


def refuse_sealed(table: Table, rows: Mask) -> None:
    """Raise a TableError where some of these rows, which are to be fitted or looked at, are sealed."""
    found = int((sealed(table) & rows).sum())
    if found:
        raise TableError(
            "table",
            got=f"{found} sealed rows among those to fit",
            expected="none: they are scored once, at the end",
            remedy="Leave out the rows of `kept_from_fits`. `opened_once` gives the sealed ones, to score.",
        )


def opened_once(table: Table, predictor: str, ledger: Path) -> Mask:
    """The sealed rows, to score a predictor on; a line in the ledger says so.

    Raises:
        TableError: the ledger says that a predictor of this name was scored before, or there are no sealed rows.
    """
    rows = sealed(table)
    known = ledger.read_text().splitlines() if ledger.is_file() else []
    if any(line.split("\t")[1:2] == [predictor] for line in known):
        raise TableError(
            f"sealed part for {predictor}",
            got=f"a score before, in {ledger}",
            expected="one score for each predictor",
            remedy="Report that one. Another predictor has another name.",
        )
    if not rows.any():
        raise TableError(
            "table",
            got="no sealed rows",
            expected="runs of the plans tables, texts and colour",
            remedy="Train them with `gengap zoo run`.",
        )
    line = "\t".join((date.today().isoformat(), predictor, table.sha256, digest()))
    ledger.write_text("\n".join([*known, line]) + "\n")
    return rows


def _hash(text: str) -> str:
    return hashlib.sha256(f"{SALT}:{text}".encode()).hexdigest()
