"""The file of a finished part: small JSON, written whole, never pickled."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.learning_curves.origin import Origin
from lightning_gengap.learning_curves.part import Part
from lightning_gengap.zoo.files import write_whole

_FORMAT = 1


def file_of(folder: Path, samples: int) -> Path:
    """Where the part of so many samples is."""
    return folder / f"part_{samples}.json"


def write_part(folder: Path, part: Part, origin: Origin) -> None:
    """Write a finished part."""
    content = {"format": _FORMAT, "origin": asdict(origin), "part": asdict(part)}
    write_whole(file_of(folder, part.samples), json.dumps(content, indent=1))


def read_part(folder: Path, samples: int, origin: Origin) -> Part | None:
    """The finished part of so many samples; None where there is none, or a damaged file, which is written anew.

    Raises:
        ConfigurationError: the part is of another recipe or data set.
    """
    path = file_of(folder, samples)
    try:
        content = json.loads(path.read_text())
        other, part = Origin.of_json(content["origin"]), _part_of(content["part"])
        whole = content["format"] == _FORMAT and part.samples == samples
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not whole:
        return None
    differences = origin.differences(other)
    if differences:
        raise ConfigurationError(
            f"learning_curve(out={str(folder)!r})",
            got=f"{path.name} of another training: other {', '.join(differences)}",
            expected="parts of this module, recipe and data set",
            remedy="Pass another folder, or remove this one.",
        )
    return part


def _part_of(content: dict[str, Any]) -> Part:
    held: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    part = Part(**held)
    readings = (part.epochs, part.train_accuracies, part.test_accuracies)
    shares = (part.train_accuracy, part.test_accuracy, *part.train_accuracies, *part.test_accuracies)
    if len({len(each) for each in readings}) != 1 or not part.epochs or part.samples < 1 or part.tested < 1:
        raise ValueError("readings that do not fit together")
    if not all(0 <= share <= 1 for share in shares) or not math.isfinite(part.seconds):
        raise ValueError("accuracies that are none")
    return part
