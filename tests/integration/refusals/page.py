"""The tables of docs/refusals.md, and whether a message is the one of a row."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "refusals.md"
ROW = re.compile(r"^\| (?P<situation>[^|]+) \| `(?P<message>.+)` \| (?P<remedy>.+) \|$")


def rows(title: str = "") -> dict[str, str]:
    """The messages of the sections whose titles begin so, by situation."""
    sections = [part for part in PAGE.read_text().split("\n## ")[1:] if part.startswith(title)]
    lines = [line for section in sections for line in section.splitlines() if line.startswith("|")]
    found = [match for match in map(ROW.match, lines) if match]
    heads = sum(line.startswith("|---") for line in lines)
    assert len(found) == len(lines) - 2 * heads, "a row that is not: situation, `message`, what to do"
    named = {match["situation"]: match["message"] for match in found}
    assert len(named) == len(found), "a situation that comes twice"
    return named


def is_said(message: str, text: str) -> bool:
    """Whether the text begins with the message, where each … is anything."""
    return re.match(".*".join(map(re.escape, message.split("…"))), text, re.DOTALL) is not None
