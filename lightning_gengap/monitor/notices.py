"""What the user is told of a training under measurement, each thing once."""

from __future__ import annotations

from collections.abc import Collection

from lightning.pytorch.utilities import rank_zero_info

from lightning_gengap.errors import one_line
from lightning_gengap.measurement import Measurement, Measurer
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.schedule import MOST_FAILURES
from lightning_gengap.monitor.warning import rank_zero_warn


def say_watched(measurer: Measurer) -> None:
    """Say which layers are watched on how many samples, and whether these are augmented."""
    samples = measurer.samples
    taps = ", ".join(f"{tap.layer} = {tap}" for tap in measurer.layout.taps) or "no hidden layer"
    size = "an unknown number of" if samples.train_samples is None else samples.train_samples
    rank_zero_info(f"GapMonitor watches {taps} on {len(samples)} of {size} training samples.")
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


def say_no_initial_weights() -> None:
    """Say what follows from a checkpoint that was written without the monitor."""
    rank_zero_warn(
        "GapMonitor has no initial weights, because the checkpoint was written without it: features that need "
        "them are missing, and a predictor that uses them abstains."
    )


def say_notes(state: RunState) -> None:
    """Say what is absent and why, and what else there is to know about the values."""
    while state.notes:
        note = state.notes.pop(0)
        if state.says_first(note):
            rank_zero_warn(f"GapMonitor: {note}.")


def say_no_actual_gap(state: RunState, reason: str) -> None:
    """Say why there is no actual gap although there was a validation."""
    if state.says_first("actual_gap"):
        rank_zero_info(reason)


def say_failure(state: RunState, error: Exception, when: str, way_out: str = "") -> None:
    """Say that nothing could be measured, unless the user knows it. Where failures are errors, raise it instead."""
    if state.raises:
        raise error
    if not state.warned:
        rank_zero_warn(
            f"GapMonitor could not measure {when}: {type(error).__name__}: {error} {way_out}Training goes on and the "
            f"last values are held; after {MOST_FAILURES} failures in a row the monitor switches itself off. "
            "GapMonitor(on_error='raise') shows the traceback."
        )
    state.warned = True


def say_optional_failures(state: RunState, measurement: Measurement, failed: Collection[str], epoch: int) -> None:
    """Say of each optional measure that failed, on this rank or another."""
    for name in failed:
        if state.says_first(f"failure of {name}"):
            cause = measurement.failures.get(name, "another rank failed.")
            rank_zero_warn(
                f"GapMonitor could not measure {name} in epoch {epoch}: {cause} Everything else goes on, and its last "
                f"values are held; after {MOST_FAILURES} failures in a row it is no longer tried."
            )


def say_unpaid(state: RunState) -> None:
    """Say which measures were asked for and never paid for; training has ended."""
    share, unpaid = state.budget.share, state.schedule.unpaid()
    if share is not None and unpaid:
        rank_zero_warn(
            f"GapMonitor never measured {', '.join(unpaid)}: {share:.2g} of the time of this training did "
            "not pay for it. Pass a larger budget, or budget=None."
        )
