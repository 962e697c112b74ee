"""Counts that the guard does not restore, because it does not look into a queue: for tests that count forwards."""

from __future__ import annotations

from queue import SimpleQueue


def emptied(tally: SimpleQueue[int]) -> list[int]:
    """What was put into it; it is empty then."""
    return [tally.get() for _ in range(tally.qsize())]
