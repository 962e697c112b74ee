"""Markdown pages as tests compare them."""

import re


def sections(text: str) -> dict[str, list[str]]:
    """By title, the lines without the padding of table cells."""
    found: dict[str, list[str]] = {}
    for line in filter(str.strip, text.splitlines()):
        if line.startswith("#"):
            own = found.setdefault(line.strip("# "), [])
        else:
            cells = [cell.strip() for cell in line.split("|")]
            own.append(" | ".join("---" if re.fullmatch(":?-{2,}:?", cell) else cell for cell in cells).strip())
    return found
