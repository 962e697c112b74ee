"""Tables and columns of pandas, whose numbers no attribute of Python's holds. pandas itself is never imported."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_gengap.undisturbed.containers import MOST_BYTES
from lightning_gengap.undisturbed.kind import Kind, NotKept, no_parts


def is_table(cls: type) -> bool:
    """Whether objects of this class are tables or columns of pandas."""
    return any((base.__module__, base.__name__) == ("pandas.core.generic", "NDFrame") for base in cls.__mro__)


def _save_table(table: Any) -> Any:
    size = int(np.sum(table.memory_usage()))
    if size > MOST_BYTES:
        raise NotKept(f"a table of {size / 2**20:.0f} MiB")
    return table.copy()


def _restore_table(now: Any, saved: Any) -> None:
    if not now.equals(saved):
        object.__setattr__(now, "_mgr", saved._mgr)


TABLE = Kind(_save_table, _restore_table, no_parts)
