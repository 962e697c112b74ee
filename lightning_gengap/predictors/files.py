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
from lightning_gengap.predictors.feature import TRANSFORMS, Feature
from lightning_gengap.predictors.predictor import (
    FORMS,
    PREDICTED_GAP,
    Correction,
    Interval,
    LossHead,
    Memoriser,
    Predictor,
)

FORMAT = 1


def available_predictors() -> list[str]:
    """Names of the bundled predictors, the alias `default` first."""
    names = sorted(
        (path.name.removesuffix(".json") for path in _folder().iterdir() if path.name.endswith(".json")), key=_version
    )
    return (["default"] if any(name.startswith("default_v") for name in names) else []) + names


def load_predictor(name_or_path: str | Path) -> Predictor:
    """Load a bundled predictor by name, or any predictor file by path.

    `default` is the newest of that name, and on images the newest `images` predictor in its place.

    Raises:
        PredictorError: no such predictor (the message lists the bundled ones), or a damaged or foreign file.
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
    return replace(default, measures=default.measures | preferred.measures, preferred=preferred)


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
        PredictorError: not JSON, another format, unknown or missing fields, a wrong hash, non-finite numbers,
            or features that this version does not measure.
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
        content["features"] = tuple(_strict(Feature, feature) for feature in content["features"])
        content["interval"] = _strict(Interval, content["interval"])
        content["loss_head"] = _loss_head(content.get("loss_head"))
        for name, kind in (("memoriser", Memoriser), ("correction", Correction)):
            part = content.get(name)
            content[name] = None if part is None else _strict(kind, part)
        predictor: Predictor = _strict(Predictor, {**content, "preferred": None})
        _check(predictor)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(origin, str(error)) from None
    return predictor


def _loss_head(content: Any) -> LossHead | None:
    if content is None:
        return None
    head: LossHead = _strict(LossHead, content)
    return replace(head, features=tuple(_strict(Feature, feature) for feature in content["features"]))


def _strict(kind: Any, content: Any) -> Any:
    if not isinstance(content, dict) or set(content) != {f.name for f in fields(kind)}:
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"fields {got} for a {kind.__name__}")
    return kind(**content)


def _check(predictor: Predictor) -> None:
    numbers = [predictor.intercept, predictor.prior_gap, *asdict(predictor.interval).values()]
    head = predictor.loss_head
    if head is not None:
        numbers += [head.intercept, head.below, head.above]
    if predictor.correction is not None:
        numbers += asdict(predictor.correction).values()
    if predictor.memoriser is not None:
        numbers.append(predictor.memoriser.kept)
        if predictor.memoriser.name not in MEASURED:
            raise ValueError(f"memoriser {predictor.memoriser.name!r}, which this version does not measure")
        if not 0 <= predictor.memoriser.kept <= 1:
            raise ValueError(f"a memoriser that keeps {predictor.memoriser.kept}")
    of_head = () if head is None else head.features
    for feature in (*predictor.features, *of_head):
        numbers += [value for value in asdict(feature).values() if not isinstance(value, str)]
        own = feature.name == PREDICTED_GAP and feature in of_head
        if feature.name not in MEASURED and not own:
            raise ValueError(f"feature {feature.name!r}, which this version does not measure")
        if feature.transform not in TRANSFORMS:
            raise ValueError(f"transform {feature.transform!r}")
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise ValueError("numbers that are not finite")
    if predictor.form not in FORMS:
        raise ValueError(f"form {predictor.form!r}")
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
