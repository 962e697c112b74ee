"""Predictors: log-linear functions of measured values, each one strict JSON file. No torch here."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from lightning_gengap.errors import PredictorError
from lightning_gengap.keys import MEASURED

FORMAT = 1
FARTHEST_TRAIN_SAMPLES = 20.0
TRANSFORMS = ("identity", "log", "logit")
FORMS = ("product_of_powers", "additive")


@dataclass(frozen=True)
class Feature:
    """One term: coefficient x (transform(value) - centre).

    Attributes:
        name: the measured key.
        floor: smallest raw value before the log; for the logit, the distance kept from 0 and 1.
        centre, low, high, deviation: mean, range and standard deviation in the zoo, in transformed units.
    """

    name: str
    transform: str
    coefficient: float
    centre: float
    low: float
    high: float
    deviation: float
    floor: float

    def transformed(self, value: float) -> float:
        """The value on the feature's scale."""
        if self.transform == "log":
            return math.log(max(value, self.floor))
        if self.transform == "logit":
            inside = min(max(value, self.floor), 1 - self.floor)
            return math.log(inside / (1 - inside))
        return value

    def distance(self, value: float) -> float:
        """How far outside the zoo: 0 inside its range, 1 at the end of the near region, more beyond."""
        position = self.transformed(value)
        beyond = max(self.low - position, position - self.high, 0.0)
        if self.name == "train_samples" and position > self.high:
            return beyond / math.log(FARTHEST_TRAIN_SAMPLES)
        return beyond / self.deviation if self.deviation > 0 else (math.inf if beyond > 1e-9 else 0.0)


@dataclass(frozen=True)
class Interval:
    """Conformal interval: gap + quantile x (gap + offset), widened by 1 + distance from the support.

    Attributes:
        level: nominal coverage.
        below, above: quantiles of (actual - predicted) / (predicted + offset) over held-out tasks.
    """

    level: float
    offset: float
    below: float
    above: float


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of one model; gap, lower and upper in accuracy fractions.

    Attributes:
        in_support: every feature lies within the zoo's range.
        abstained: the gap is only the prior mean and the interval says nothing.
        outside: features beyond the zoo's range, features that are missing, and flags.
        contributions: accuracy fractions by feature, with `intercept` and `limits`; they add up to `gap`.
    """

    gap: float
    lower: float
    upper: float
    in_support: bool
    abstained: bool
    outside: tuple[str, ...]
    contributions: dict[str, float]


@dataclass(frozen=True)
class Predictor:
    """A fitted log-linear predictor of the accuracy gap.

    Attributes:
        form: `product_of_powers` (the log of the gap is linear) or `additive` (the gap is).
        measures: the measures it needs, with their arguments.
        prior_gap: the mean gap in the zoo.
        scores: held-out scores as measured.
        provenance: recipe, table and its hash.
    """

    name: str
    form: str
    measures: dict[str, dict[str, Any]]
    intercept: float
    features: tuple[Feature, ...]
    interval: Interval
    prior_gap: float
    provenance: dict[str, Any]
    scores: dict[str, Any]
    target: str = "accuracy_gap"
    unit: str = "fraction"
    license: str = "Apache-2.0"

    def predict(self, values: Mapping[str, float], flags: Iterable[str] = ()) -> Prediction:
        """Predict the gap from measured values.

        Args:
            values: by key, without the `gengap/` prefix; `train_accuracy` and `classes` are always needed.
            flags: reasons for doubt that no feature shows (`augmented_probe`, `initial_weights`); each widens.

        Raises:
            PredictorError: `train_accuracy` or `classes` is missing.
        """
        for name in ("train_accuracy", "classes"):
            if name not in values:
                raise PredictorError(
                    f"predictor {self.name}",
                    got=f"values without {name!r}",
                    expected="at least train_accuracy and classes",
                    remedy="Pass the dictionary that measure() returns.",
                )
        accuracy = values["train_accuracy"]
        missing = [f.name for f in self.features if not math.isfinite(values.get(f.name, math.nan))]
        distances = {f.name: f.distance(values[f.name]) for f in self.features if f.name not in missing}
        beyond = [name for name, distance in distances.items() if distance > 0]
        doubts = tuple(flags)
        outside = (*missing, *beyond, *doubts)
        farthest = max(distances.values(), default=0.0)
        chance = 1 / values["classes"]
        if missing or farthest > 1 or accuracy < chance + 0.25 * (1 - chance):
            return self._abstention(accuracy, outside)
        terms = {f.name: f.coefficient * (f.transformed(values[f.name]) - f.centre) for f in self.features}
        raw, contributions = self._combined(terms)
        gap = min(max(raw, 0.0), accuracy)
        contributions["limits"] = gap - math.fsum(contributions.values())
        width = (1 + farthest + len(doubts)) * (gap + self.interval.offset)
        lower, upper = gap + self.interval.below * width, gap + self.interval.above * width
        return Prediction(
            gap, min(lower, gap), max(min(upper, accuracy), gap), not outside, False, outside, contributions
        )

    def _combined(self, terms: dict[str, float]) -> tuple[float, dict[str, float]]:
        """The unlimited gap and what each term adds to it.

        In the product form the logarithmic mean turns log contributions into shares of the gap without residue
        (the logarithmic mean Divisia decomposition).
        """
        if self.form == "additive":
            return self.intercept + math.fsum(terms.values()), {"intercept": self.intercept} | terms
        total = math.fsum(terms.values())
        base = math.exp(self.intercept)
        raw = math.exp(min(self.intercept + total, 5.0))
        mean = (raw - base) / total if abs(total) > 1e-12 else base
        return raw, {"intercept": base} | {name: mean * term for name, term in terms.items()}

    def _abstention(self, accuracy: float, outside: tuple[str, ...]) -> Prediction:
        gap = min(self.prior_gap, accuracy)
        contributions = {"intercept": self.prior_gap, "limits": gap - self.prior_gap}
        return Prediction(gap, 0.0, accuracy, False, True, outside, contributions)


def available_predictors() -> list[str]:
    """Names of the bundled predictors, the alias `default` first."""
    names = sorted(
        (path.name.removesuffix(".json") for path in _folder().iterdir() if path.name.endswith(".json")), key=_version
    )
    return (["default"] if any(name.startswith("default_v") for name in names) else []) + names


def load_predictor(name_or_path: str | Path) -> Predictor:
    """Load a bundled predictor by name (`default`: the newest of that name) or any predictor file by path.

    Raises:
        PredictorError: no such predictor (the message lists the bundled ones), or a damaged or foreign file.
    """
    text, names = str(name_or_path), available_predictors()
    if isinstance(name_or_path, str) and text in names:
        newest = [name for name in names if name.startswith("default_v")][-1:] if text == "default" else [text]
        return loads((_folder() / f"{newest[0]}.json").read_text(encoding="utf-8"), newest[0])
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


def dumps(predictor: Predictor) -> str:
    """The predictor as JSON text, with a SHA-256 over its canonical form."""
    content: dict[str, Any] = {"format": FORMAT, **asdict(predictor)}
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
        predictor: Predictor = _strict(Predictor, content)
        _check(predictor)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(origin, str(error)) from None
    return predictor


def _strict(kind: Any, content: Any) -> Any:
    if not isinstance(content, dict) or set(content) != {f.name for f in fields(kind)}:
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"fields {got} for a {kind.__name__}")
    return kind(**content)


def _check(predictor: Predictor) -> None:
    numbers = [predictor.intercept, predictor.prior_gap, *asdict(predictor.interval).values()]
    for feature in predictor.features:
        numbers += [value for value in asdict(feature).values() if not isinstance(value, str)]
        if feature.name not in MEASURED:
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
