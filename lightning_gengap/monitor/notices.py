"""What the user is told of a training under measurement, each thing once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from lightning.pytorch.utilities import rank_zero_info

from lightning_gengap.errors import one_line, sentence
from lightning_gengap.measurement import Absence, Measurement, said
from lightning_gengap.measurer import Measurer
from lightning_gengap.measures import MEASURED
from lightning_gengap.monitor.logged_keys import ESTIMATED
from lightning_gengap.monitor.readout import Status
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.schedule import MOST_FAILURES
from lightning_gengap.monitor.validation_accuracy import NO_KEY, Refusal, ValidationAccuracy
from lightning_gengap.monitor.warning import rank_zero_warn


def say_watched(state: RunState, measurer: Measurer, size: int | None) -> None:
    """Say in one line what is watched on how many samples, and why not more; and whether the samples are augmented."""
    samples = measurer.samples
    taps = ", ".join(f"{tap.layer} = {tap}" for tap in measurer.layout.taps) or "no hidden layer"
    total = "an unknown number of" if size is None else size
    missing = measurer.layout.missing if "margin" in state.selection.measures else {}
    absent = said(Absence(f"margin/{layer}*", why) for layer, why in missing.items())
    line = "; ".join([f"GapMonitor watches {taps} on {len(samples)} of {total} training samples", *absent])
    rank_zero_info(f"{line}.")
    if samples.augmented:
        rank_zero_warn(
            "GapMonitor reads different inputs when it reads an index twice, so the training set is augmented. "
            "Pass probe_data=<the same training set without augmentation>; until then intervals are wider."
        )


def say_copied_instead(state: RunState, error: Exception) -> None:
    """Say that the training set could not be read by index."""
    if state.says_first("copied instead"):
        rank_zero_info(
            f"GapMonitor could not read the training set by index ({one_line(error)}), so it copies the first "
            "batches of training. Pass probe_data=<the training set, readable in this process> to choose the samples."
        )


def say_no_initial_weights(cause: str = "") -> None:
    """Say what follows from weights that were trained before; `cause` is what the checkpoint lacks, if there is one."""
    because = f"the checkpoint {cause}" if cause else "the weights were trained before, without it"
    rank_zero_warn(
        f"GapMonitor has no initial weights, because {because}: features that need them are missing, and a predictor "
        "that uses them abstains. Train from the start with GapMonitor."
    )


def say_knowing_weights(state: RunState, accuracy: float, chance: float) -> None:
    """Say why the intervals are wider where weights of the start know the samples, or look as if they did."""
    if state.says_first("knowing weights"):
        rank_zero_info(
            f"GapMonitor: the weights that training starts from classify {accuracy:.2f} of the samples right, where "
            f"the largest class has {chance:.2f}, so they may know these data; the intervals are wider, and in_support "
            "is 0."
        )


def say_unreadable(error: Exception, has_weights: bool) -> None:
    """Say that the state in a checkpoint cannot be taken over."""
    rest = "all but its initial weights is measured anew" if has_weights else "it holds no initial weights either"
    rank_zero_warn(f"GapMonitor starts anew, because its state in the checkpoint cannot be used: {error}; {rest}.")


def say_unknown_size(state: RunState, reason: str) -> None:
    """Say why nobody knows how many samples are trained on."""
    state.absences["train_samples"] = reason
    if state.selection.predictor is None:  # a predictor that needs it says so
        state.notes.append(f"train_samples is absent: {reason}")


def say_other_data(state: RunState, differences: Sequence[str]) -> None:
    """Say that the data are not those of before."""
    if state.says_first("other data"):
        rank_zero_info(
            f"GapMonitor starts anew, because the training data are not those of before: {', '.join(differences)} "
            "differ. Only the initial weights go on."
        )


def say_other_measuring(state: RunState, changes: Sequence[str]) -> None:
    """Say that the same data are measured otherwise than before."""
    if state.says_first("other measuring"):
        rank_zero_info(f"GapMonitor measures the task anew, because {', and '.join(changes)} than before.")


def say_notes(state: RunState) -> None:
    """Say what is absent and why, and what else there is to know about the values."""
    while state.notes:
        note = state.notes.pop(0)
        if state.says_first(note):
            rank_zero_warn(f"GapMonitor: {note}.")


def say_blind(state: RunState) -> None:
    """Say who decides by a key of ours that has no value, once each."""
    for reader in state.readers:
        if _is_absent(reader.key, state) and not reader.waits and state.says_first(f"{reader.name} on {reader.key}"):
            rank_zero_warn(
                f"{reader.name} on {state.prefix}{reader.key} finds no value, as that is absent. Until there is one, a "
                "checkpoint keeps the first weights that it saves, and a stopper loses patience. Let it decide by "
                "another key, train_accuracy for example, if the reason of the absence will not pass."
            )


def _is_absent(key: str, state: RunState) -> bool:
    """Whether this key has never had a value, for a reason that is known."""
    if key.startswith("predicted_"):
        return state.readout.status == Status.NEVER
    if key in ESTIMATED:
        return state.readout.status == Status.NEVER and key not in state.readout.fresh
    return key in MEASURED and key not in state.values and any(fnmatchcase(key, pattern) for pattern in state.absences)


def say_no_actual_gap(state: RunState, refusal: Refusal) -> None:
    """Say why there is no actual gap although there was a validation, once for each kind of reason."""
    if state.says_first(refusal.kind):
        (rank_zero_info if refusal.kind == NO_KEY else rank_zero_warn)(f"GapMonitor: {refusal}")


def say_no_held_out(state: RunState, error: Exception) -> None:
    """Say why the held-out samples are no evidence."""
    if state.says_first("no held out"):
        rank_zero_warn(
            f"GapMonitor does not use held_out=: {sentence(error)} Training goes on, and estimates know of the other "
            "evidence alone."
        )


def say_no_curve(state: RunState, why: str) -> None:
    """Say why a learning curve is no evidence."""
    if state.says_first(f"no curve: {why}"):
        rank_zero_warn(
            f"GapMonitor does not use a learning curve of evidence=: {why}. Training goes on, and estimates know of "
            "the other evidence alone."
        )


def say_contradiction(state: RunState) -> None:
    """Say that evidence lies too far from what was predicted to be chance."""
    if state.contradiction is not None and state.says_first("contradiction"):
        seen, apart = state.contradiction
        rank_zero_info(
            f"GapMonitor: evidence contradicts the prediction: an accuracy of {seen.accuracy:.2f} was observed where "
            f"{seen.predicted:.2f} was predicted, {apart:.1f} deviations apart. Estimates give the prediction less "
            "weight; see that the evidence has the labels and inputs of the training data."
        )


def say_validates_on_training(state: RunState, key: str, known: int) -> None:
    """Say why the accuracy of a validation is no evidence."""
    if state.says_first("validates on training"):
        rank_zero_warn(
            f"GapMonitor: {key} is of {known} samples that are trained on, so it says nothing of new ones, and "
            "estimates do not use it."
        )


def say_reading(state: RunState, accuracy: ValidationAccuracy) -> None:
    """Say how a validation accuracy was read, where that is not as it is logged."""
    if accuracy.remark is not None and state.says_first(accuracy.remark):
        rank_zero_info(f"GapMonitor: {accuracy.remark}")


def say_failure(state: RunState, error: Exception, when: str, way_out: str = "") -> None:
    """Say that nothing could be measured, unless the user knows it. Where failures are errors, raise it instead."""
    if state.raises:
        raise error
    if not state.warned:
        rank_zero_warn(
            f"GapMonitor could not measure {when}: {sentence(error)} {way_out}Training goes on "
            f"without fresh values; after {MOST_FAILURES} failures in a row the monitor switches itself off. "
            "GapMonitor(on_error='raise') shows the traceback."
        )
    state.warned = True


def say_optional_failures(state: RunState, measurement: Measurement, failed: Collection[str], epoch: int) -> None:
    """Say of each optional measure that failed, on this rank or another."""
    for name in failed:
        if state.says_first(f"failure of {name}"):
            cause = measurement.failures.get(name, "another rank failed.")
            rank_zero_warn(
                f"GapMonitor could not measure {name} in epoch {epoch}: {cause} Everything else goes on without "
                f"it; after {MOST_FAILURES} failures in a row it is no longer tried."
            )


def say_unpaid(state: RunState) -> None:
    """Say which measures were asked for and never paid for; training has ended.

    Where the monitor was switched off, or its last measurement failed, the user knows another cause.
    """
    if state.off is not None or state.failures:
        return
    share = state.budget.share
    unpaid = [name for name in state.schedule.untried() if name in state.selection.asked]
    if share is not None and unpaid:
        rank_zero_warn(
            f"GapMonitor never measured {', '.join(unpaid)}: {100 * share:.3g} % of the time of this training did "
            "not pay for it. Pass a larger budget, or budget=None."
        )


def say_unpredicted(state: RunState) -> None:
    """Say why no prediction was made in all of a training that only ever abstained for the time being; it has ended."""
    last = state.prediction
    if last is None or state.readout.of_last != Status.ABSTAINING or "predicted_gap" in state.readout.extremes:
        return
    if last.learned:
        why = f"{', '.join(last.too_far)} lay too far beyond what the predictor was fitted on"
        remedy = "Train longer, or fit one on tasks like this with `gengap zoo fit`"
    else:
        why = f"the train accuracy, {state.values['train_accuracy']:.2f} at the end, was too near to that of chance"
        remedy = "Train longer, or pass the forward= and target= that training_step uses"
    rank_zero_info(f"GapMonitor made no prediction: {why}. {remedy}.")
