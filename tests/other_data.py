"""Keys that are of data of another kind than images."""

from __future__ import annotations


def is_of_other_data(key: str) -> bool:
    """Whether nobody misses it among images, unless it is asked for by name."""
    return key.split("/")[0] in ("reference", "agreement") and any(kind in key for kind in ("tokens", "landmarks"))
