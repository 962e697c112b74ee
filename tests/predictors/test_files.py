"""Damaged predictor files, however they came to be: the error is a PredictorError, wherever they are read."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lightning_gengap import GapMonitor
from lightning_gengap.cli import main
from lightning_gengap.errors import PredictorError
from lightning_gengap.predictors.files import MOST_BYTES, available_predictors, dumps, load_predictor, loads

BUNDLED = [name for name in available_predictors() if name != "default"]
TEXT = dumps(load_predictor("default_v3"))
NUMBER = '"intercept": 0.18520684'
READERS: dict[str, Callable[[Any], object]] = {
    "load_predictor": load_predictor,
    "monitor": lambda path: GapMonitor(predictor=path),
}
DAMAGED: dict[str, bytes] = {
    name: text.encode() if isinstance(text, str) else text
    for name, text in {
        "empty": "",
        "blank": "\n \n",
        "a word": "null",
        "a number": "2",
        "NaN": TEXT.replace(NUMBER, '"intercept": NaN'),
        "infinity": TEXT.replace(NUMBER, '"intercept": -Infinity'),
        "beyond floats": TEXT.replace(NUMBER, '"intercept": 1e999'),
        "5,000 digits": TEXT.replace(NUMBER, f'"intercept": {"1" * 5000}'),
        "beyond whole floats": TEXT.replace(NUMBER, f'"intercept": {2**53 + 1}'),
        "nested lists": "[" * 200_000,
        "nested objects": '{"a":' * 200_000,
        "nested in a field": TEXT.replace(NUMBER, f'"intercept": {"[" * 900}{"]" * 900}'),
        "another digit": TEXT.replace(NUMBER, '"intercept": 0.18520685'),
        "another hash": TEXT.replace('"sha256": "', '"sha256": "0'),
        "hash of another kind": json.dumps(json.loads(TEXT) | {"sha256": ["a"]}),
        "a field twice": TEXT.replace(NUMBER, f"{NUMBER}, {NUMBER}"),
        "format twice": TEXT.replace('"format": 2', '"format": 1, "format": 2'),
        "byte order mark": "\ufeff" + TEXT,
        "UTF-16": TEXT.encode("utf-16"),
        "not UTF-8": TEXT.encode().replace(b"default", b"d\xe9fault", 1),
        "zeros": bytes(1000),
        "truncated": TEXT[: len(TEXT) // 2],
        "twice": TEXT + TEXT,
        "too long": TEXT + " " * MOST_BYTES,
        "format of a wide kind": json.dumps({"format": ["x" * 10_000]}),
    }.items()
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_content_is_refused(content: bytes, reader: Callable[[Any], object], tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_bytes(content)
    with pytest.raises(PredictorError, match=r"mine\.json") as caught:
        reader(str(file))
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("verb", [["predictors"], ["predictors", "--json"]], ids=" ".join)
def test_the_command_says_so_in_one_line(verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, content in enumerate(DAMAGED.values()):
        file = tmp_path / f"{number}.json"
        file.write_bytes(content)
        assert main([*verb, str(file)]) == 2
        assert f"{number}.json" in capsys.readouterr().err


def folder(path: Path) -> str:
    path.mkdir()
    return str(path)


def loop(path: Path) -> str:
    path.symlink_to(path)
    return str(path)


def pipe(path: Path) -> str:
    os.mkfifo(path)  # to open it would wait for ever
    return str(path)


NO_FILES: dict[str, Callable[[Path], Any]] = {
    "missing": str,
    "folder": folder,
    "loop": loop,
    "pipe": pipe,
    "below a file": lambda path: path.write_text("") or str(path / "inside.json"),
    "zero byte": lambda path: f"{path}\0",
    "long name": lambda path: str(path) + "x" * 5000,
    "empty name": lambda path: "",
    "lone surrogate": lambda path: f"{path}\udcff",
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("made", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_is_refused(
    made: Callable[[Path], Any], reader: Callable[[Any], object], tmp_path: Path
) -> None:
    with pytest.raises(PredictorError, match="or the path of a predictor file"):
        reader(made(tmp_path / "mine.json"))


@pytest.mark.parametrize("strange", [None, 3, b"default", 0.5, ["default"]])
def test_what_is_no_name_is_refused(strange: Any) -> None:
    with pytest.raises(PredictorError, match="or the path of a predictor file"):
        load_predictor(strange)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_file_that_cannot_be_read_is_refused(error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.json"
    file.write_text(TEXT)

    def refused(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(PredictorError, match="expected a file that can be read"):
        load_predictor(file)


def test_a_folder_that_cannot_be_searched_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refused)
    with pytest.raises(PredictorError, match="or the path of a predictor file"):
        load_predictor(tmp_path / "mine.json")


@pytest.mark.parametrize("name", BUNDLED)
def test_one_changed_digit_is_refused(name: str) -> None:
    """Or it is the same number still, as a digit beyond the precision of floats."""
    whole = load_predictor(name)
    text, rng = dumps(whole), random.Random(0)
    for at in rng.sample([at for at, letter in enumerate(text) if letter.isdigit()], 60):
        changed = text[:at] + str((int(text[at]) + rng.randint(1, 9)) % 10) + text[at + 1 :]
        refused_or_whole(changed, whole)


def test_random_damage_is_refused() -> None:
    whole, rng = load_predictor("cifar10_cnn_small_v1"), random.Random(1)
    text = dumps(whole)
    for _ in range(300):
        at, length = rng.randrange(len(text)), rng.choice([0, 1, 1, 2, 50])
        inserted = "".join(rng.choice('0123456789-+.eE[]{}",:nulltrfas \\\n\x00é') for _ in range(rng.randint(0, 3)))
        refused_or_whole(text[:at] + inserted + text[at + length :], whole)


def refused_or_whole(text: str, whole: object) -> None:
    found: object = whole
    with suppress(PredictorError):
        found = loads(text, "mine.json")
    assert found == whole


ODD: list[Any] = [None, True, 0, -1, 1e300, -1e300, "", "x", "NaN", [], [[]], {}, {"kind": "x"}, [1, "a"]]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_another_value_anywhere_is_refused_or_read_as_it_is(odd: Any) -> None:
    """Files whose hash matches: what is accepted is written again as it was read."""
    content = json.loads(dumps(load_predictor("cifar10_cnn_small_v1")))
    del content["sha256"]
    for holder, key in list(places(content, ("provenance", "scores"))):
        kept, holder[key] = holder[key], odd
        text = hashed(content)
        holder[key] = kept
        try:
            found = loads(text, "mine.json")
        except PredictorError:
            continue
        assert json.loads(dumps(found)) == {name: part for name, part in json.loads(text).items() if part is not None}


def places(content: Any, but: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """All places of a nested content, as containers with keys."""
    pairs = list(content.items() if isinstance(content, dict) else enumerate(content))
    for key, value in pairs:
        yield content, key
        if isinstance(value, dict | list) and key not in but:
            yield from places(value)


def hashed(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps(content | {"sha256": hashlib.sha256(canonical.encode()).hexdigest()})
