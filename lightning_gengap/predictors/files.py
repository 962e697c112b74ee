"""Predictors as JSON files: bundled or your own, read strictly, with a hash over the content. Never pickled."""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lightning_gengap.errors import PredictorError, closest, one_line
from lightning_gengap.measures import MEASURED
from lightning_gengap.predictors.components import COMPONENTS, Component
from lightning_gengap.predictors.parts import PREDICTED_GAP, UNSCALED, Feature
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.predictors.specification import Term

FORMAT = 2
MOST_BYTES = 2**24  # of a file; the bundled ones have up to 60 kB
MOST_SHOWN = 500  # characters of what is refused
_OPTIONAL: dict[str, Any] = {"loss_head": None, "scales": asdict(UNSCALED), "observed": ()}  # left out of files
# What JSON writes for each kind of field, in Python and in words.
_WRITTEN: dict[Any, tuple[Any, str]] = {
    float: (int | float, "a number"),
    int: (int, "a whole number"),
    str: (str, "a text"),
    bool: (bool, "true or false"),
    tuple: (list | tuple, "a list"),
    dict: (dict, "an object"),
}


def available_predictors() -> list[str]:
    """Names of the bundled predictors, the alias `default` first.

    Example:
        >>> from lightning_gengap import available_predictors
        >>> available_predictors()[0]
        'default'
    """
    files = (path.name for path in _folder().iterdir())
    names = sorted((name.removesuffix(".json") for name in files if name.endswith(".json")), key=_version)
    return ["default", *names]


def load_predictor(name_or_path: str | Path) -> Predictor:
    """Load a bundled predictor by name, or any predictor file by path.

    `default` is the newest predictor of that name. Wherever the measures of the newest `images` predictor are there,
    that one predicts in its place.

    Raises:
        PredictorError: there is no such predictor (the message lists the bundled ones), or the file is damaged or
            was written by another version.

    Example:
        >>> from lightning_gengap import load_predictor
        >>> predictor = load_predictor("default_v3")
        >>> [feature.name for feature in predictor.features]
        ['train_accuracy', 'difficulty/ridge_extrapolated', 'train_samples']
    """
    text, names = str(name_or_path), available_predictors()
    if isinstance(name_or_path, str) and text == "default":
        return _default(names)
    if isinstance(name_or_path, str) and text in names:
        return _bundled(text)
    try:
        path = Path(name_or_path)
        found = path.is_file()
    except (TypeError, ValueError, OSError):  # no path, or one that the system refuses
        found = False
    if not found:
        raise PredictorError(
            "predictor",
            got=repr(name_or_path if len(text) < 1000 else f"{text[:1000]}..."),
            expected=f"one of {', '.join(names)}, or the path of a predictor file",
            remedy=f"{closest(text[:100], names)} `gengap predictors` lists the bundled ones.",
        )
    return loads(_content_of(path), text)


def _content_of(path: Path) -> str:
    """The text of a file."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise PredictorError(
            f"predictor file {path}",
            got=one_line(error),
            expected="a file that can be read",
            remedy="Check its permissions, or use a bundled predictor (`gengap predictors`).",
        ) from error
    if len(content) > MOST_BYTES:
        raise _damaged(str(path), f"more than {MOST_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _damaged(str(path), "bytes that are not UTF-8 text") from None


def _default(names: Sequence[str]) -> Predictor:
    """The newest `default`, with the newest `images` preferred where images are measured."""
    newest, images = ([name for name in names if name.startswith(kind)][-1] for kind in ("default_v", "images_v"))
    default, preferred = _bundled(newest), _bundled(images)
    measures = tuple(dict.fromkeys((*default.measures, *preferred.measures)))
    return replace(default, measures=measures, preferred=preferred)


def _bundled(name: str) -> Predictor:
    return loads((_folder() / f"{name}.json").read_text(encoding="utf-8"), name)


def dumps(predictor: Predictor) -> str:
    """The predictor as JSON text, with a SHA-256 over its canonical form."""
    content: dict[str, Any] = {"format": FORMAT, **asdict(replace(predictor, preferred=None))}
    content = {name: value for name, value in content.items() if value is not None and value != _OPTIONAL.get(name)}
    content["sha256"] = _digest(content)
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def loads(text: str, origin: str) -> Predictor:
    """Parse a predictor file strictly; `origin` names it in the PredictorError that refuses it."""
    try:
        content = json.loads(
            text, object_pairs_hook=_distinct, parse_constant=_finite, parse_float=_finite, parse_int=_exact
        )
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            got = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"format {reprlib.repr(got)}, expected {FORMAT}")
        recorded = content.pop("sha256", None)
        if recorded != _digest(content):
            raise ValueError("a SHA-256 that does not match the content")
        content.pop("format")
        predictor: Predictor = _read(Predictor, {**_OPTIONAL, **content, "preferred": None})
        _check(predictor)
    except json.JSONDecodeError as error:
        raise _damaged(origin, f"text that is not JSON ({error.msg}, line {error.lineno})") from None
    except RecursionError:
        raise _damaged(origin, "text that is nested too deeply") from None
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(origin, str(error)) from None
    return predictor


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the file; a name that comes twice would hide a value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name that comes twice in one object")
    return content


def _finite(digits: str) -> float:
    """A number with a point or an exponent, or one of the words that JSON does not have."""
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("numbers that are not finite")
    return number


def _exact(digits: str) -> int:
    """A whole number that a float holds."""
    if len(digits) > 17 or abs(int(digits)) > 2**53:
        raise ValueError("whole numbers beyond 2^53")
    return int(digits)


def _read(hint: Any, content: Any, name: str = "") -> Any:
    """The content as what a type hint says: dataclasses with exactly their fields, lists, numbers, words."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:  # of something and None
        return None if content is None else _read(inner[0], content, name)
    if kind is Component:
        kind = hint = COMPONENTS[content["kind"]]
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        if not isinstance(content, dict) or set(content) != set(hints):
            got = sorted(content) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"fields {got} for a {hint.__name__}, which has {', '.join(hints)}")
        return hint(**{name: _read(hints[name], value, name) for name, value in content.items()})
    if kind is Literal and content not in inner:
        raise ValueError(f"{name.replace('_', ' ')} {reprlib.repr(content)}")
    if kind is Any or kind is Literal:
        return content
    written, words = _WRITTEN[kind]
    if not isinstance(content, written) or (isinstance(content, bool) and kind is not bool):
        raise ValueError(f"{name.replace('_', ' ')} {reprlib.repr(content)}, which is not {words}")
    if kind is tuple:
        return tuple(_read(inner[0], one, name) for one in content)
    return content


def _check(predictor: Predictor) -> None:
    """Refuse keys and measures that this version does not have."""
    head, specification = predictor.loss_head, predictor.specification
    of_head = () if head is None else head.features
    of_groups = (one for group in predictor.groups for one in group.features)
    terms = (*specification.features, *specification.bounds, *specification.grouped)
    named: tuple[Feature | Term, ...] = (*predictor.features, *of_groups, *terms, *of_head)
    for one in named:
        if one.name not in MEASURED and not (one.name == PREDICTED_GAP and one in of_head):
            raise ValueError(f"feature {one.name!r}, which this version does not measure")
    for component in specification.components:
        if strangers := set(component.needs) - set(MEASURED):
            raise ValueError(f"{component.kind} {strangers}, which this version does not measure")
    for term in named:
        if isinstance(term, Feature) and not (
            term.low <= term.high and term.deviation >= 0 and (term.floor > 0 or term.transform != "log")
        ):
            raise ValueError(f"a range of {term.name!r} that is none: {term}")
    if not (0 < predictor.interval.level < 1 and predictor.interval.below <= predictor.interval.above):
        raise ValueError(f"an interval that is none: {predictor.interval}")
    if not all(scale > 0 for scale in asdict(predictor.scales).values()):
        raise ValueError(f"scales that are none: {predictor.scales}")
    for other in predictor.observed:
        if not (other.kin != "run" and other.deviation >= 0 and other.samples > 0 and 0 <= other.accuracy <= 1):
            raise ValueError(f"an observation of another model that is none: {other}")
    unknown = set(predictor.measures) - {key.measure for key in MEASURED.values()}
    if unknown:
        raise ValueError(f"measures {sorted(unknown)}, which this version does not have")


def _damaged(origin: str, got: str) -> PredictorError:
    return PredictorError(
        f"predictor file {origin}",
        got=got[:MOST_SHOWN],
        expected="a predictor written by this version of lightning-gengap, unchanged",
        remedy="Fit it again with `gengap zoo fit`, or use a bundled one (`gengap predictors`).",
    )


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _folder() -> Any:
    """Where the bundled predictors are: in the package, or beside it in a checkout that is not installed."""
    try:
        return resources.files("lightning_gengap.pretrained_predictors")
    except ModuleNotFoundError:
        return Path(__file__).parents[2] / "pretrained_predictors"


def _version(name: str) -> tuple[str, int]:
    found = re.fullmatch(r"(.+)_v(\d+)", name)
    return (found[1], int(found[2])) if found else (name, 0)
