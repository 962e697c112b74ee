"""The key as it was: the measure is the fifth argument."""

from __future__ import annotations

from lightning_gengap.measures.key import Key as NewKey


def Key(unit: str, low: float, high: float, meaning: str, measure: str = "") -> NewKey:  # noqa: N802
    return NewKey(unit, low, high, meaning, measure=measure)
