"""What follows from a measurement: its costs, the values, the prediction, and the estimate. No Lightning."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from lightning_gengap.errors import LogitsError
from lightning_gengap.measurement import Absence, Measurement, said
from lightning_gengap.measurer import Measurer
from lightning_gengap.monitor.abstention import obstacles
from lightning_gengap.monitor.estimation import Observed, observe, show_estimate, stand
from lightning_gengap.monitor.readout import Status
from lightning_gengap.monitor.run_state import FIT, NEVER, RunState, flat
from lightning_gengap.predictors.predictor import ALWAYS_NEEDED, Prediction, Predictor

ENOUGH_KNOWN = 0.5  # of the training samples, that the best reference is fitted on


def examine(measurement: Measurement, measurer: Measurer, state: RunState) -> Measurement:
    """Note what the user should know of a measurement.

    Nothing is shown yet, because in a distributed run another rank may have failed.

    Raises:
        LogitsError: the logits are not finite.
    """
    state.absences |= dict(measurement.absences)
    known = measurer.layout.missing.values()  # said when watching began
    absences = (absence for absence in measurement.absences if absence.reason not in known)
    state.notes += said(absence for absence in absences if state.selection.explains(absence.key))
    state.notes += measurement.remarks
    if "train_loss" not in measurement.values:
        error = LogitsError(
            "model output",
            got="NaN or infinity on the monitored samples",
            expected="finite logits",
            remedy="Training seems to have diverged; lower the learning rate.",
        )
        error.may_pass = True
        raise error
    return measurement


def start(measurement: Measurement, state: RunState) -> None:
    """Remember what was measured before the first step. It is shown to nobody."""
    state.readout.remember({key: measurement.values[key] for key in FIT})
    state.budget.first_price = measurement.seconds_of_needed / measurement.samples * state.schedule.needed


def take(
    measurement: Measurement,
    state: RunState,
    progress: float | None = None,
    epoch: int = 0,
    failed: Collection[str] = (),
    riders: Collection[str] = (),
    predicts: bool = True,
    held_out: Observed | None = None,
) -> None:
    """Take over a measurement on which all ranks agree: its costs, its values, and what follows from them.

    `progress` is the share of the planned training that is done. The `failed` measures did so on some rank. `held_out`
    is what the same weights reach on the held-out samples.
    """
    for name, seconds in measurement.seconds.items():
        state.schedule.record(name, epoch, seconds, succeeded=name not in failed, rode=name in riders)
    fresh = {name: values for name, values in measurement.optional.items() if name not in failed}
    state.optional |= fresh
    values = {**measurement.values, **flat(fresh), **state.training_loss.values()}
    if progress is not None:
        values["progress"] = progress
    copies = _trained_on_copies(state)
    if copies is not None:
        values["trained_on_copies"] = float(copies)
    state.values = flat(state.optional) | values
    if predicts:
        _predict(values, state)
        observe(held_out, state)
        stand(held_out, state)
        show_estimate(state)


def _trained_on_copies(state: RunState) -> bool | None:
    """Whether the network sees augmented or mixed samples in training; None where that is not known."""
    by_step, by_data = state.replay.changed_inputs, None if state.measurer is None else state.measurer.samples.copied
    if by_step or by_data:
        return True
    return False if by_step is False and by_data is False else None


def _predict(values: Mapping[str, float], state: RunState) -> None:
    """Predict from values of now and of the whole training alone, and show it."""
    predictor = _serving(values, state)
    status, predicted = Status.FRESH, dict[str, float]()
    state.prediction = None
    if predictor is not None:
        state.scale = predictor.scale(state.kind, state.source)
        state.serving = predictor.name
        known = values if not state.never_because else {key: values[key] for key in ALWAYS_NEEDED}
        flags = (*state.flags, *doubts_of_references(values, predictor))
        state.prediction = prediction = predictor.predict(known, flags)
        if prediction.abstained:
            reasons = () if state.never_because else obstacles(prediction, state.absences, state.is_growing)
            _say_never(prediction, reasons, state)
            status = Status.NEVER if reasons or state.never_because else Status.ABSTAINING
        else:
            predicted = _shown(prediction, values["train_accuracy"])
    state.readout.show({**values, **predicted}, status)


def doubts_of_references(values: Mapping[str, float], predictor: Predictor) -> tuple[str, ...]:
    """A reason for doubt where a predictor goes by references that know fewer than half of the training samples yet."""
    reads = any(name.startswith("reference/") for name in predictor.needs)
    return ("few_references",) if reads and values.get("reference/share", 1.0) < ENOUGH_KNOWN else ()


def _say_never(prediction: Prediction, reasons: Sequence[str], state: RunState) -> None:
    """Say why it abstains for good, instead of what is absent for the same reason."""
    same = {
        str(Absence(pattern, why))
        for pattern, why in state.absences.items()
        if any(fnmatchcase(name, pattern) for name in prediction.missing)
    }
    if reasons and state.says_first(NEVER):
        state.said |= same
        state.notes = [note for note in state.notes if note not in same]
        state.notes.append(NEVER.format("; and because ".join(reasons)))


def _serving(values: Mapping[str, float], state: RunState) -> Predictor | None:
    """The predictor of this training: the preferred one or the other, as the first measurement decided.

    It knows of no observation: what training data alone say stays apart from the estimate.
    """
    predictor = state.selection.predictor
    if predictor is None or predictor.preferred is None:
        return predictor if predictor is None else replace(predictor, observed=())
    if state.preferred_serves is None:
        state.preferred_serves = all(math.isfinite(values.get(name, math.nan)) for name in predictor.preferred.needs)
    if state.preferred_serves:
        return predictor.preferred
    return replace(predictor, preferred=None, observed=())


def _shown(prediction: Prediction, accuracy: float) -> dict[str, float]:
    """What is shown of a prediction that is no abstention."""
    loss = {} if prediction.loss_gap is None else {"predicted_loss_gap": prediction.loss_gap[0]}
    return loss | {
        "predicted_gap": prediction.gap,
        "predicted_gap_lower": prediction.lower,
        "predicted_gap_upper": prediction.upper,
        "predicted_test_accuracy": accuracy - prediction.gap,
        "in_support": float(prediction.in_support),
    }
