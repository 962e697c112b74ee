"""Markdown from templates, tables and scores. Only this module imports jinja2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.zoo.frames import pd

try:
    import tabulate  # noqa: F401  pandas writes Markdown with it
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
except ModuleNotFoundError as error:
    raise ConfigurationError(
        "written reports",
        got=f"no {error.name}",
        expected="jinja2 and tabulate",
        remedy='`pip install "lightning-gengap[zoo]"`.',
    ) from None

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, folder: Path = TEMPLATES, **values: object) -> str:
    """The page that a template makes of the values; blank lines between its blocks count once.

    Every template knows `aligned`, `ranged` and `table` of this module, and may import the templates of this package.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown, no HTML
    )
    environment.filters |= {"aligned": aligned, "ranged": ranged}
    environment.globals["table"] = table
    text = environment.get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    cells = pd.DataFrame(list(rows), columns=list(header), dtype=str)
    return str(cells.to_markdown(index=False, disable_numparse=True))


def aligned(lines: str) -> str:
    """A Markdown table of lines with cells between bars; the first line is the header, and empty lines are left out."""
    header, *rows = ([cell.strip() for cell in line.split("|")] for line in lines.splitlines() if line.strip())
    return table(header, rows) + "\n"  # in a template, the end of the block takes the line's end with it


def ranged(score: Sequence[float] | None, digits: int) -> str:
    """`value [low, high]`, or a dash where the score is undefined."""
    if score is None:
        return "-"
    value, low, high = (f"{number:.{digits}f}" for number in score)
    return f"{value} [{low}, {high}]"
