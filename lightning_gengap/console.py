"""How the commands print: aligned tables, wrapped to a terminal's width and plain where the output is piped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

_PIPED_WIDTH = 10_000  # no line of a file is wrapped


def show_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below their titles, in columns; a column of numbers is aligned on the right."""
    listed = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, title in enumerate(titles):
        numeric = all(_is_number(row[place]) for row in listed)
        table.add_column(title, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        table.add_row(*row)
    show(table)


def show(*parts: object) -> None:
    """Print to standard output, each part on a line of its own; square brackets in a text are no markup."""
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    console = Console(markup=False, emoji=False, highlight=False, width=width)
    for part in parts:
        console.print(part)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell
    return True
