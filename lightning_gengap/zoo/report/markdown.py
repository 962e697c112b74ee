"""Tables and scores in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def ranged(score: Sequence[float] | None, digits: int) -> str:
    """`value [low, high]`, or a dash where the score is undefined."""
    if score is None:
        return "-"
    value, low, high = (f"{number:.{digits}f}" for number in score)
    return f"{value} [{low}, {high}]"
