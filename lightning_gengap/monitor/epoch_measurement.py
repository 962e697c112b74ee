"""The measurement at the end of an epoch, on which all ranks agree."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer

from lightning_gengap.errors import frameless
from lightning_gengap.measurement import Measurement
from lightning_gengap.monitor.notices import say_failure, say_no_actual_gap, say_notes, say_optional_failures
from lightning_gengap.monitor.readout import Status
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.schedule import MOST_FAILURES
from lightning_gengap.monitor.start_up import StartUp
from lightning_gengap.monitor.trainer_facts import find_validation_accuracy, planned_share, seconds_until_idle


def plan(trainer: Trainer, state: RunState, every_n_epochs: int) -> tuple[str, ...] | None:
    """The optional measures of this epoch; None where nothing is measured, and the last values are held."""
    if state.failures >= MOST_FAILURES:
        state.readout.hold(Status.OFF)
        return None
    epochs, planned = trainer.current_epoch + 1, None
    if not state.measured or epochs % every_n_epochs == 0:
        last = planned_share(trainer, epochs) == 1.0
        planned = state.schedule.plan(state.budget, first=not state.measured, last=last)
    # Clocks differ between ranks, and so may copied samples and with them `measured`: rank 0 decides for all.
    planned = trainer.strategy.broadcast(planned)
    if planned is None:
        state.readout.hold(Status.HELD)
    return planned


def measure(
    trainer: Trainer, module: LightningModule, state: RunState, start_up: StartUp, optional: Sequence[str]
) -> Measurement | None:
    """Finish the start if need be, measure, and take the result over; None where any rank failed."""
    epoch, agree = trainer.current_epoch, trainer.strategy.reduce_boolean_decision
    state.budget.trained += seconds_until_idle(module.device)
    measurement, failure = None, None
    try:
        measurer = start_up.finish(trainer, module, state)
        with state.budget.measuring():
            measurement = state.measure(measurer, module, state.selection.needed, optional, trainer.optimizers)
    except Exception as error:
        failure = error if state.raises else frameless(error)
    # Ranks agree on failure before anything else, so that all show, hold and switch off together.
    all_measured = agree(measurement is not None, all=True)
    if measurement is None or not all_measured:
        state.failures += 1
        state.readout.hold(Status.FAILED)
        say_failure(state, failure or RuntimeError("another rank failed."), f"in epoch {epoch}")
        return None
    failed = [name for name in optional if not agree(name not in measurement.failures, all=True)]
    say_optional_failures(state, measurement, failed, epoch)
    state.take(measurement, planned_share(trainer, epoch + 1), epoch, failed)
    state.measured, state.failures, state.warned = True, 0, False
    say_notes(state)
    return measurement


def compare_with_validation(trainer: Trainer, state: RunState, name: str | None) -> float | None:
    """Recalibrate by the actual gap of this epoch, and return it; None without a validation or its accuracy.

    `name` is the logged key of the accuracy, as in `find_validation_accuracy`.
    """
    agree = trainer.strategy.reduce_boolean_decision
    if not (state.validated and agree("train_accuracy" in state.readout.shown, all=True)):
        return None
    actual_gap = None
    accuracy, notice = find_validation_accuracy(trainer.callback_metrics, name)
    if accuracy is None:
        say_no_actual_gap(state, str(notice))
    else:
        actual_gap = state.readout.shown["train_accuracy"] - accuracy
    # Metrics and predictions may differ between ranks: rank 0 speaks for all.
    state.learn(trainer.strategy.broadcast(state.residual(actual_gap)))
    return actual_gap
