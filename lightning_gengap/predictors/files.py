"""Predictors as JSON files: bundled or your own, read strictly, with a hash over the content. Never pickled."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lightning_gengap.errors import PredictorError, closest
from lightning_gengap.measures import MEASURED
from lightning_gengap.predictors.components import COMPONENTS, Component
from lightning_gengap.predictors.parts import PREDICTED_GAP, Feature
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.predictors.specification import Term

FORMAT = 2
_OPTIONAL = ("loss_head", "correction")  # parts that are left out of the file where there are none


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
    path = Path(name_or_path)
    if not path.is_file():
        raise PredictorError(
            "predictor",
            got=repr(text),
            expected=f"one of {', '.join(names)}, or the path of a predictor file",
            remedy=f"{closest(text, names)} `gengap predictors` lists the bundled ones.",
        )
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise _damaged(text, "bytes that are not UTF-8 text") from None
    return loads(content, text)


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
    content = {name: value for name, value in content.items() if value is not None}
    content["sha256"] = _digest(content)
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def loads(text: str, origin: str) -> Predictor:
    """Parse a predictor file strictly; `origin` names it in the PredictorError that refuses it."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise _damaged(origin, f"text that is not JSON ({error.msg}, line {error.lineno})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise _damaged(origin, f"format {got!r}, expected {FORMAT}")
    recorded = content.pop("sha256", None)
    if recorded != _digest(content):
        raise _damaged(origin, "a SHA-256 that does not match the content")
    content.pop("format")
    try:
        predictor: Predictor = _read(Predictor, {**dict.fromkeys(_OPTIONAL), **content, "preferred": None})
        _check(predictor)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(origin, str(error)) from None
    return predictor


def _read(hint: Any, content: Any, name: str = "") -> Any:
    """The content as what a type hint says: dataclasses with exactly their fields, tuples, finite numbers, words."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:  # of something and None
        return None if content is None else _read(inner[0], content, name)
    if kind is Component:
        kind = hint = COMPONENTS[content["kind"]]
    if kind is tuple:
        return tuple(_read(inner[0], one, name) for one in content)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        if not isinstance(content, dict) or set(content) != set(hints):
            got = sorted(content) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"fields {got} for a {hint.__name__}, which has {', '.join(hints)}")
        return hint(**{name: _read(hints[name], value, name) for name, value in content.items()})
    if kind is Literal and content not in inner:
        raise ValueError(f"{name.replace('_', ' ')} {content!r}")
    if kind in (int, float) and not (isinstance(content, int | float) and math.isfinite(content)):
        raise ValueError("numbers that are not finite")
    return content


def _check(predictor: Predictor) -> None:
    """Refuse keys and measures that this version does not have."""
    head, specification = predictor.loss_head, predictor.specification
    of_head = () if head is None else head.features
    named: tuple[Feature | Term, ...] = (*predictor.features, *specification.features, *specification.bounds, *of_head)
    for one in named:
        if one.name not in MEASURED and not (one.name == PREDICTED_GAP and one in of_head):
            raise ValueError(f"feature {one.name!r}, which this version does not measure")
    for component in specification.components:
        if strangers := set(component.needs) - set(MEASURED):
            raise ValueError(f"{component.kind} {strangers}, which this version does not measure")
    unknown = set(predictor.measures) - {key.measure for key in MEASURED.values()}
    if unknown:
        raise ValueError(f"measures {sorted(unknown)}, which this version does not have")


def _damaged(origin: str, got: str) -> PredictorError:
    return PredictorError(
        f"predictor file {origin}",
        got=got,
        expected="a predictor written by this version of lightning-gengap, unchanged",
        remedy="Fit it again with `gengap zoo fit`, or use a bundled one (`gengap predictors`).",
    )


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _folder() -> Any:
    return resources.files("lightning_gengap.pretrained_predictors")


def _version(name: str) -> tuple[str, int]:
    found = re.fullmatch(r"(.+)_v(\d+)", name)
    return (found[1], int(found[2])) if found else (name, 0)
