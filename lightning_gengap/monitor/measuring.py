"""One measurement at the end of an epoch, on which all ranks agree; what fails or is never taken is said once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_gengap.errors import frameless
from lightning_gengap.measurement import Measurement
from lightning_gengap.monitor.readout import Status
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.schedule import MOST_FAILURES
from lightning_gengap.monitor.trainer_facts import planned_share


def measure_together(
    trainer: Trainer,
    module: LightningModule,
    session: RunState,
    needed: Sequence[str],
    due: bool,
    prepare: Callable[[Trainer, LightningModule, RunState], None],
) -> Measurement | None:
    """Measure if it is due and the budget allows it, and show the result; otherwise hold the last values.

    Args:
        trainer: at the end of a training epoch.
        module: the watched module.
        session: what this training has shown and spent so far.
        needed: measures without which nothing new is shown; the session's schedule chooses the further ones.
        due: whether this epoch is one to measure in.
        prepare: called before, where it may fail as a measurement may.
    """
    if session.failures >= MOST_FAILURES:
        session.readout.hold(Status.OFF)
        return None
    done = planned_share(trainer, trainer.current_epoch + 1)
    # The clock differs between ranks: rank 0 decides for all.
    extras = trainer.strategy.broadcast(session.plan(last=done == 1.0)) if due else None
    if extras is None:
        session.readout.hold(Status.HELD)
        return None
    session.budget.trained += _waited_for(module.device)
    measurement, failure = None, None
    try:
        prepare(trainer, module, session)
        with session.budget.measuring():
            measurement = session.measure(module, needed, extras, trainer.optimizers)
    except Exception as error:
        failure = error if session.raises else frameless(error)
    # Ranks agree on failure before anything else, so that all show, hold and switch off together.
    agree = trainer.strategy.reduce_boolean_decision
    all_measured = agree(measurement is not None, all=True)
    if measurement is None or not all_measured:
        session.failures += 1
        session.readout.hold(Status.FAILED)
        say_failure(session, failure or RuntimeError("another rank failed."), f"in epoch {trainer.current_epoch}")
        return None
    failed = [name for name in extras if not agree(name not in measurement.failures, all=True)]
    account(session, measurement, failed, trainer.current_epoch)
    session.show(measurement, done)
    session.measured, session.failures, session.warned = True, 0, False
    while session.notes:
        rank_zero_warn(f"GapMonitor: {session.notes.pop(0)}.")
    return measurement


def account(session: RunState, measurement: Measurement, failed: Collection[str], epoch: int) -> None:
    """Keep what further measures gave and cost; say of each, once, that it failed."""
    session.account(measurement, epoch, failed)
    for name in failed:
        if name not in session.schedule.said:
            cause = measurement.failures.get(name, "another rank failed.")
            rank_zero_warn(
                f"GapMonitor could not measure {name} in epoch {epoch}: {cause} Everything else goes on, and its last "
                f"values are held; after {MOST_FAILURES} failures in a row it is no longer tried."
            )
        session.schedule.said.add(name)


def say_failure(session: RunState, error: Exception, when: str) -> None:
    """Say once in a row that nothing could be measured, or raise it where that is wanted."""
    if session.raises:
        raise error
    if not session.warned:
        rank_zero_warn(
            f"GapMonitor could not measure {when}: {type(error).__name__}: {error} Training goes on and the last "
            f"values are held; after {MOST_FAILURES} failures in a row the monitor switches itself off. "
            "GapMonitor(on_error='raise') shows the traceback."
        )
    session.warned = True


def say_unpaid(session: RunState) -> None:
    """Say which measures were asked for and never paid for; training has ended."""
    share, unpaid = session.budget.share, session.schedule.unpaid()
    if share is not None and unpaid:
        rank_zero_warn(
            f"GapMonitor never measured {', '.join(unpaid)}: {share:.2g} of the time of this training did "
            "not pay for it. Pass a larger budget, or budget=None."
        )


def _waited_for(device: torch.device) -> float:
    """Seconds until the device has done what training queued, which are no cost of measuring."""
    started = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
