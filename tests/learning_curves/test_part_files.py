"""Files of finished parts: whole, plain, and read strictly."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.learning_curves.origin import Origin, described, fingerprint_of
from lightning_gengap.learning_curves.part import Part
from lightning_gengap.learning_curves.part_files import read_part, write_part
from tests.lightning_models import TinyModel, blobs

PART = Part(40, 120, 0.9, 0.7, (0, 1), (0.2, 0.9), (0.25, 0.7), 1.5)
ORIGIN = Origin.of(TinyModel(), fingerprint_of(blobs(160)), {"max_epochs": 2})


def test_a_part_is_read_as_it_was_written(tmp_path: Path):
    write_part(tmp_path, PART, ORIGIN)
    assert read_part(tmp_path, 40, ORIGIN) == PART
    assert read_part(tmp_path, 41, ORIGIN) is None
    assert [path.name for path in tmp_path.iterdir()] == ["part_40.json"]
    with pytest.raises(ConfigurationError, match="other argument max_epochs"):
        read_part(tmp_path, 40, replace(ORIGIN, training={"max_epochs": "3"}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: json.dumps(content)[:-20],
        lambda content: "[]",
        lambda content: json.dumps({**content, "format": 2}),
        lambda content: json.dumps({**content, "part": {**content["part"], "epochs": [0]}}),
        lambda content: json.dumps({**content, "part": {**content["part"], "test_accuracy": 70}}),
        lambda content: json.dumps({**content, "part": {**content["part"], "samples": 50}}),
        lambda content: json.dumps({**content, "part": {**content["part"], "seconds": None}}),
        lambda content: json.dumps({**content, "origin": {}}),
    ],
)
def test_a_damaged_file_counts_for_nothing(tmp_path: Path, damage: Any):
    write_part(tmp_path, PART, ORIGIN)
    path = tmp_path / "part_40.json"
    path.write_text(damage(json.loads(path.read_text())))
    assert read_part(tmp_path, 40, ORIGIN) is None


@dataclass(frozen=True)
class Setting:
    rate: float
    data: Any


class Held:
    def __init__(self) -> None:
        self.patience, self.hidden = 3, object()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        ({"a": [1, "b"]}, "{'a': [1, 'b']}"),
        ({3, 1}, "[1, 3]"),
        (blobs, "tests.lightning_models.blobs"),
        (Held(), f"{__name__}.Held(patience=3)"),
        (Setting(0.5, blobs), f"{__name__}.Setting({{'rate': 0.5, 'data': tests.lightning_models.blobs}})"),
    ],
)
def test_values_are_described_alike_in_every_process(value: Any, text: str):
    assert described(value) == text
