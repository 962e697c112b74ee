"""The files that stages write: never over others, in one step, and told from those that a kill or a full disk cut."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_gengap.errors import ConfigurationError


def write_whole(path: Path, text: str) -> None:
    """Write a file that is either as before or complete, whatever happens."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)


def finished(path: Path) -> bool:
    """Whether the file holds a whole run."""
    try:
        content = json.loads(path.read_text())
        return bool(content["key"] and content["recipe"] and content["rows"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add what is finished to a CSV file, which is made with its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def read_rows(path: Path) -> list[dict[str, str]]:
    """What was finished; nothing where there is no file yet."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def sorted_out(runs: Path) -> tuple[list[Path], list[Path]]:
    """The folder's files of whole runs, and those that hold none, which `gengap zoo run` repeats."""
    paths = sorted(runs.glob("*.json"))
    whole = [path for path in paths if finished(path)]
    return whole, [path for path in paths if path not in whole]


def refuse_overwriting(path: Path) -> None:
    """Refuse a path that exists, or that has no folder to be written to."""
    if path.exists():
        raise ConfigurationError(
            f"--out {path}",
            got="a file that exists" if path.is_file() else "a folder",
            expected="a new path",
            remedy="Remove it first, or choose another.",
        )
    if not path.parent.is_dir():
        raise ConfigurationError(
            f"--out {path}",
            got=f"no folder {path.parent}",
            expected="a path in a folder that exists",
            remedy=f"Make it first: mkdir -p {path.parent}.",
        )
