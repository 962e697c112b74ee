"""What can be compared: a monitor, a checkpoint that holds its state, or measured values."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from lightning_gengap.errors import ConfigurationError, DataError, PredictorError, one_line
from lightning_gengap.monitor.gap_monitor import GapMonitor
from lightning_gengap.monitor.saved_state import FORMAT, StateError, from_primitives
from lightning_gengap.predictors.comparison import Contender, Standing
from lightning_gengap.predictors.observations import Kin, Observation
from lightning_gengap.predictors.predictor import Predictor

_ROUNDING = 1e-6  # of fractions
_REMEDY_OBJECTS = (
    "Hyperparameters often hold such objects. Allow their classes with torch.serialization.add_safe_globals, or "
    "compare the monitors in place of their checkpoints."
)


@dataclass
class _Kept:
    """The parts of a monitor's state that are read here."""

    standing: Standing | None = None
    observations: list[Observation] = field(default_factory=list)


def contender(given: Any, predictor: Predictor) -> Contender:
    """The last measured weights of a training. `predictor` predicts from values alone.

    Raises:
        ConfigurationError: it is nothing that can be compared, or holds nothing that was measured.
        PredictorError: nothing is known of its test accuracy.
    """
    if isinstance(given, GapMonitor):
        found, subject = _of_state(given.state_dict(), "GapMonitor"), "GapMonitor"
    elif isinstance(given, str | Path):
        subject = f"checkpoint {given}"
        found = _of_state(_state_in(Path(given), subject), subject)
    elif isinstance(given, Mapping):
        found, subject = _of_values(given, predictor), "values"
    else:
        raise ConfigurationError(
            "compare",
            got=f"an object of type {type(given).__name__}",
            expected="a GapMonitor, the path of a checkpoint, or the values that measure gives",
            remedy="Pass two of these.",
        )
    if found.standing.abstained and not found.observations:
        raise PredictorError(
            subject,
            got="an abstention of the predictor, and no held-out sample",
            expected="one of the two that tells of the test accuracy",
            remedy="Train further, or watch with GapMonitor(held_out=...).",
        )
    return found


def check_pair(first: Contender, second: Contender, same: Kin) -> None:
    """Refuse two trainings whose test accuracies are not of one kind.

    Raises:
        DataError: they have other classes.
        PredictorError: other predictors predict.
        ConfigurationError: they are no two epochs of one run.
    """
    one, other = first.standing, second.standing
    if one.classes != other.classes:
        raise DataError(
            "compare",
            got=f"trainings of {one.classes} and of {other.classes} classes",
            expected="the same classes",
            remedy="Compare trainings of one task.",
        )
    if one.predictor != other.predictor:
        raise PredictorError(
            "compare",
            got=f"predictions of {one.predictor} and of {other.predictor}",
            expected="those of one predictor, which misses the same in both",
            remedy="Give both monitors the same predictor=, and the same kind of inputs.",
        )
    seen = {(each.source, each.epoch): each for each in first.observations}
    forked = any(seen.get((each.source, each.epoch), each) != each for each in second.observations)
    if same == "run" and (forked or (one.epoch is not None and one.epoch == other.epoch and one != other)):
        raise ConfigurationError(
            "compare(same='run')",
            got="other values at one epoch",
            expected="two epochs of one training",
            remedy="Pass same='recipe', or 'task' where more than the seed differs.",
        )


def _of_values(values: Mapping[str, float], predictor: Predictor) -> Contender:
    """By the prediction alone. Pairs that a predictor knows of are of no use: they move both alike."""
    serving = replace(predictor.serving(values), observed=())
    prediction = serving.predict(values)
    predicted, scale = values["train_accuracy"] - prediction.gap, serving.scales.neither
    classes, deviation = int(values["classes"]), prediction.deviation
    return Contender(Standing(serving.name, classes, predicted, deviation, scale, prediction.abstained, epoch=None))


def _state_in(path: Path, subject: str) -> Mapping[str, Any]:
    """The state of the monitor that a checkpoint holds: of several the first with a prediction."""
    expected = "a checkpoint of Lightning that was written with GapMonitor among the callbacks"
    remedy = "Save it with ModelCheckpoint, or with trainer.save_checkpoint(path)."
    try:
        callbacks = torch.load(path, map_location="cpu", weights_only=True)["callbacks"]
        states = [state for key, state in callbacks.items() if state and _is_of_monitor(key, state)]
    except Exception as error:  # a foreign file can make torch raise nearly anything
        got = one_line(error)
        if isinstance(error, UnpicklingError) and zipfile.is_zipfile(path):
            got, remedy = "objects of classes that are not loaded, as they could run code", _REMEDY_OBJECTS
        raise ConfigurationError(subject, got=got, expected=expected, remedy=remedy) from None
    if not states:
        raise ConfigurationError(subject, got="no state of a GapMonitor", expected=expected, remedy=remedy)
    return next((state for state in states if isinstance(state, Mapping) and state.get("standing")), states[0])


def _is_of_monitor(key: str, state: Any) -> bool:
    """Whether a callback's state is that of a monitor, or of a class of the user's that is one."""
    return key.startswith(GapMonitor.__qualname__) or (isinstance(state, Mapping) and "standing" in state)


def _of_state(saved: Any, subject: str) -> Contender:
    """What a state says of the last measured weights."""
    try:
        if not isinstance(saved, Mapping) or (saved and saved.get("format") != FORMAT):
            raise StateError(f"its format is not {FORMAT}")
        kept = _Kept(*(from_primitives(_Kept(), name, saved) for name in ("standing", "observations") if saved))
        if kept.standing is not None and kept.standing.answers is not None:
            kept.standing.answers.right()
        _check_numbers(kept)
    except ValueError as error:
        raise ConfigurationError(
            subject,
            got=f"a state of the monitor that cannot be used: {error}",
            expected="one that this version wrote",
            remedy="Train with this version, or measure the weights and compare the values.",
        ) from None
    if kept.standing is None:
        raise ConfigurationError(
            subject,
            got="a training of which nothing is predicted yet",
            expected="a measurement with a predictor",
            remedy="Compare after the first measured epoch, and leave predictor=None out.",
        )
    return Contender(kept.standing, tuple(kept.observations))


def _check_numbers(kept: _Kept) -> None:
    """Refuse numbers that no measurement gives, of which no probability would come.

    Raises:
        StateError: there are some.
    """
    standing, seen = kept.standing, kept.observations
    if standing is not None:
        epoch = 0.0 if standing.epoch is None else standing.epoch
        least_zero = [standing.deviation, standing.scale, epoch]
        if not (_are_shares([standing.predicted]) and _are_sizes(least_zero) and standing.scale > 0):
            raise StateError("standing has numbers out of range")
    sizes = [number for one in seen for number in (one.deviation, one.error, one.epoch)]
    shares = [share for one in seen for share in (one.accuracy, one.predicted)]
    if not (_are_shares(shares) and _are_sizes(sizes) and all(one.samples > 0 or one.error > 0 for one in seen)):
        raise StateError("observations have numbers out of range")


def _are_shares(numbers: Sequence[float]) -> bool:
    return all(-_ROUNDING <= number <= 1 + _ROUNDING for number in numbers)


def _are_sizes(numbers: Sequence[float]) -> bool:
    return all(0 <= number < math.inf for number in numbers)
