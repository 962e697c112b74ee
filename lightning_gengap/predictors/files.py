"""Predictors as JSON files: bundled or your own, read strictly, with a hash over the content. Never pickled."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from lightning_gengap.errors import PredictorError
from lightning_gengap.measures import MEASURED
from lightning_gengap.predictors.feature import Feature
from lightning_gengap.predictors.loss_head import PREDICTED_GAP, LossHead
from lightning_gengap.predictors.parts import Correction, Interval, Memoriser
from lightning_gengap.predictors.predictor import Predictor
from lightning_gengap.predictors.specification import LOSS_HEADS, SCALES, TRANSFORMS, Specification, Term

FORMAT = 2


def available_predictors() -> list[str]:
    """Names of the bundled predictors, the alias `default` first.

    Example:
        >>> from lightning_gengap import available_predictors
        >>> available_predictors()[0]
        'default'
    """
    names = sorted(
        (path.name.removesuffix(".json") for path in _folder().iterdir() if path.name.endswith(".json")), key=_version
    )
    return (["default"] if any(name.startswith("default_v") for name in names) else []) + names


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
            remedy="List the bundled ones with `gengap predictors`.",
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
    """Parse a predictor file strictly.

    Raises:
        PredictorError: the text is not JSON or of another format, fields are unknown or missing, the hash is wrong,
            numbers are not finite, or this version does not measure a feature.
    """
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
        predictor = _predictor(content)
        _check(predictor)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(origin, str(error)) from None
    return predictor


def _predictor(content: Mapping[str, Any]) -> Predictor:
    of = {
        **content,
        "measures": tuple(content["measures"]),
        "features": _each(Feature, content["features"]),
        "interval": _strict(Interval, content["interval"]),
        "specification": _specification(content["specification"]),
        "loss_head": None,
        "memoriser": None,
        "correction": None,
        "preferred": None,
    }
    if "loss_head" in content:
        head: LossHead = _strict(LossHead, content["loss_head"])
        of["loss_head"] = replace(head, features=_each(Feature, head.features))
    for name, kind in (("memoriser", Memoriser), ("correction", Correction)):
        if name in content:
            of[name] = _strict(kind, content[name])
    predictor: Predictor = _strict(Predictor, of)
    return predictor


def _specification(content: Any) -> Specification:
    terms = {name: _each(Term, content[name]) for name in ("features", "bounds")}
    found: Specification = _strict(Specification, content | terms)
    return found


def _each(kind: Any, content: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_strict(kind, one) for one in content)


def _strict(kind: Any, content: Any) -> Any:
    if not isinstance(content, dict) or set(content) != {f.name for f in fields(kind)}:
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"fields {got} for a {kind.__name__}")
    return kind(**content)


def _check(predictor: Predictor) -> None:
    _check_numbers(predictor)
    _check_names(predictor)
    specification, memoriser = predictor.specification, predictor.memoriser
    if memoriser is not None and not 0 <= memoriser.kept <= 1:
        raise ValueError(f"a memoriser that keeps {memoriser.kept}")
    if specification.loss_head not in LOSS_HEADS:
        raise ValueError(f"loss head {specification.loss_head!r}")


def _check_numbers(predictor: Predictor) -> None:
    head, specification = predictor.loss_head, predictor.specification
    numbers = [predictor.intercept, predictor.prior_gap, specification.offset]
    numbers += [] if head is None else [head.intercept, head.below, head.above]
    parts = (predictor.interval, predictor.correction, predictor.memoriser, *_features(predictor))
    for part in (part for part in parts if part is not None):
        numbers += [value for name, value in asdict(part).items() if name not in ("name", "transform", "scale")]
    numbers += [term.floor for term in _terms(predictor) if term.floor is not None]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise ValueError("numbers that are not finite")


def _check_names(predictor: Predictor) -> None:
    """Refuse keys and measures that this version does not have."""
    head = () if predictor.loss_head is None else predictor.loss_head.features
    named: tuple[Feature | Term, ...] = (*_features(predictor), *_terms(predictor))
    for one in named:
        if one.name not in MEASURED and not (one.name == PREDICTED_GAP and one in head):
            raise ValueError(f"feature {one.name!r}, which this version does not measure")
        if one.transform not in TRANSFORMS:
            raise ValueError(f"transform {one.transform!r}")
        if one.scale not in SCALES:
            raise ValueError(f"scale {one.scale!r}")
    memoriser = "" if predictor.memoriser is None else predictor.memoriser.name
    for name in filter(None, (memoriser, predictor.specification.memoriser)):
        if name not in MEASURED:
            raise ValueError(f"memoriser {name!r}, which this version does not measure")
    unknown = set(predictor.measures) - {key.measure for key in MEASURED.values()}
    if unknown:
        raise ValueError(f"measures {sorted(unknown)}, which this version does not have")


def _features(predictor: Predictor) -> tuple[Feature, ...]:
    return (*predictor.features, *(() if predictor.loss_head is None else predictor.loss_head.features))


def _terms(predictor: Predictor) -> tuple[Term, ...]:
    return (*predictor.specification.features, *predictor.specification.bounds)


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
