"""What is declared of one logged quantity."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Key:
    """One logged quantity.

    Attributes:
        measure: the measure that yields it; empty for facts of the run and for predictions.
    """

    unit: str
    low: float
    high: float
    meaning: str
    measure: str = ""
