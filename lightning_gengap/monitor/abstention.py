"""Whether an abstention may pass: why a prediction can never be made, in words. No torch, no Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from lightning_gengap.measures import MEASURED, MEASURES
from lightning_gengap.predictors.predictor import Prediction

_WITHOUT = "Pass a predictor that does without (`gengap zoo fit` makes one), or predictor=None to only measure"
_SIZES = ("classes", "classes_present", "train_samples")
_UNKNOWN_SIZE = "the number of training samples is unknown"  # as the measures say that need it


def obstacles(prediction: Prediction, absences: Mapping[str, str], growing: bool = False) -> tuple[str, ...]:
    """Why this abstention lasts; empty where more training may end it.

    What describes the data and the start stays as it is. Other features may come nearer with training; one that is
    missing may be defined once something was learned.

    Args:
        prediction: an abstention.
        absences: why keys, or patterns of keys that end in `*`, have no value.
        growing: whether a measure is yet to know more. What is missing without a reason may then wait for it.
    """
    missing = [name for name in prediction.missing if prediction.learned or _stays(name)]
    missing = [name for name in missing if not growing or any(fnmatchcase(name, pattern) for pattern in absences)]
    too_far = [name for name in prediction.too_far if _stays(name)]
    alike: dict[str, list[str]] = {}
    for name in missing:
        alike.setdefault(_cause(name, absences), []).append(name)
    return (*(_why_missing(names, cause) for cause, names in alike.items()), *map(_why_too_far, too_far))


def _stays(name: str) -> bool:
    """Whether the value of this key is the same in all of a training."""
    measure = MEASURED[name].measure if name in MEASURED else ""
    return MEASURES[measure].per_training if measure in MEASURES else name in _SIZES


def _cause(name: str, absences: Mapping[str, str]) -> str:
    found = (why for pattern, why in absences.items() if fnmatchcase(name, pattern) and name != "train_samples")
    # A resumed training takes over what was measured once, but not why a part of it was absent.
    by_size = name == "train_samples" or (name.endswith("_extrapolated") and "train_samples" in absences)
    why = next(found, _UNKNOWN_SIZE if by_size else "it was not measured")
    return why if why != _UNKNOWN_SIZE else f"{why}: {absences.get('train_samples', 'nothing tells it')}"


def _why_missing(names: Sequence[str], cause: str) -> str:
    if "train_samples" in names:
        return (
            f"{cause}. Train on one DataLoader whose data can be read by index, or pass predictor=None to only measure"
        )
    are = "which is absent" if len(names) == 1 else "which are absent"
    return f"it needs {', '.join(names)}, {are}: {cause}. {_WITHOUT}"


def _why_too_far(name: str) -> str:
    return (
        f"{name} lies too far beyond what the predictor was fitted on. Fit one on tasks like this with "
        "`gengap zoo fit`, or pass predictor=None to only measure"
    )
