"""One measurement in training, on which all ranks agree."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lightning.pytorch import LightningModule, Trainer

from lightning_gengap.errors import frameless
from lightning_gengap.monitor.containment import all_are_on, contained, of_another_rank
from lightning_gengap.monitor.estimation import Observed, knows_more, observe, show_estimate
from lightning_gengap.monitor.held_out import HeldOut
from lightning_gengap.monitor.notices import (
    say_blind,
    say_contradiction,
    say_failure,
    say_no_actual_gap,
    say_notes,
    say_optional_failures,
    say_reading,
)
from lightning_gengap.monitor.outcome import examine, take
from lightning_gengap.monitor.readers import measures_read
from lightning_gengap.monitor.readout import Status
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.schedule import MOST_FAILURES
from lightning_gengap.monitor.start_up import StartUp
from lightning_gengap.monitor.trainer_facts import planned_share, seconds_until_idle, weights_step
from lightning_gengap.monitor.validation_accuracy import Refusal
from lightning_gengap.network.ranks import AnotherRankFailed, Ranks


@dataclass(frozen=True)
class Plan:
    """What is measured now.

    Attributes:
        samples: at most so many samples are measured, if that many can be had.
        riders: optional measures that the allowance of the prediction pays for.
        others: optional measures that the rest of the budget pays for.
        seconds: for what measures can also take another time.
    """

    samples: float
    riders: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    seconds: float = math.inf


def plan(
    trainer: Trainer, state: RunState, due: bool, read: bool, last: bool, retries: bool, share: float
) -> Plan | None:
    """What is measured now; None where nothing is, and nothing is then of now.

    A measurement that is `due` waits until it is paid for. One that a callback has `read`, the first and the `last`
    are taken always. So is the next one after an abstention or a failure, where `retries` says so. `share` is that of
    the epoch that has been trained.
    """
    if state.failures >= MOST_FAILURES and state.off is None:
        state.switch_off("it failed too often.")
    if not all_are_on(trainer, state):
        return None
    planned = None
    again = retries and state.readout.status in (Status.ABSTAINING, Status.FAILED)
    if due or read or again or last or not state.measured:
        must = read or again or last or not state.measured
        with contained(state, "planning"):
            planned = _afford(state, must, last, share, measures_read(state.readers) if read else ())
    # Clocks differ between ranks, and so may copied samples and with them `measured`: rank 0 decides for all.
    planned = trainer.strategy.broadcast(planned)
    if planned is None and state.off is None:
        state.hold(Status.HELD)
    return planned


def _afford(state: RunState, must: bool, last: bool, share: float, read: Iterable[str]) -> Plan | None:
    """What the budget pays for, and the measures that are `read`; None where nothing is and nothing `must` be taken."""
    budget, schedule = state.budget, state.schedule
    sizes = (0,) if state.measurer is None else state.measurer.samples.sizes
    own = budget.allowance(share, state.is_growing)
    allowance = max(own, budget.left if last else 0.0)
    samples, usual = math.inf, budget.price * sizes[0]
    if usual > allowance:
        samples = allowance / budget.price
        if samples < sizes[-1] and not must:
            return None
    schedule.done = tuple(state.memory.taken)
    riders = schedule.riders(allowance - usual, usual) if samples == math.inf else ()
    first = not state.measured and budget.share is not None  # then no cost is known but the declared ones
    others = () if first else schedule.others(budget, riders, usual, last)
    asked = (name for name in read if schedule.may_be_taken(name) and name not in riders)
    taken = usual + sum(schedule.expected(name, usual) for name in riders)
    seconds = budget.spare(own - taken, share, first=not state.measured)
    if last:
        seconds = max(seconds, budget.left - taken)
    return Plan(samples, riders, tuple(dict.fromkeys((*others, *asked))), seconds)


def measure(
    trainer: Trainer,
    module: LightningModule,
    state: RunState,
    start_up: StartUp,
    held_out: HeldOut,
    planned: Plan,
    epochs: float,
    ended: bool,
) -> None:
    """Finish the start if need be, measure, and take the result over, unless any rank failed.

    `epochs` is how many have been trained; `ended` says that this one copies no more batches of training.
    """
    epoch, agree = max(math.ceil(epochs) - 1, 0), trainer.strategy.reduce_boolean_decision
    state.tried_step = weights_step(trainer)
    measurement, failure, held = None, None, None
    ranks = Ranks.of_processes(trainer.strategy.root_device) if trainer.world_size > 1 else None
    optional = (*planned.riders, *planned.others)
    needed = state.selection.needed
    seconds = planned.seconds if ranks is None else math.inf  # ranks must do the same, and their clocks differ
    try:
        state.budget.train(seconds_until_idle(module.device))
        measurer = start_up.finish(trainer, module, state, ended)
        found = measurer.measure(module, needed, optional, trainer.optimizers, planned.samples, ranks, seconds)
        measurement = examine(found, measurer, state)
        held = held_out.measure(trainer, module, state, ranks)
    except AnotherRankFailed:
        pass
    except Exception as error:
        failure = error if state.raises else frameless(error)
    if ranks is not None:
        ranks.leave()
    # Ranks agree on failure before anything else, so that all show, hold and switch off together.
    all_measured = agree(measurement is not None, all=True)
    if measurement is None or not all_measured:
        state.failures += 1
        state.hold(Status.FAILED)
        elsewhere = of_another_rank(None if failure is None else f"{type(failure).__name__}: {failure}")
        say_failure(state, failure or elsewhere, f"in epoch {epoch}")
        return
    if held_out.data is not None:
        held = trainer.strategy.broadcast(held)
    failed = [name for name in optional if not agree(name not in measurement.failures, all=True)]
    with contained(state, "taking over the measurement"):
        say_optional_failures(state, measurement, failed, epoch)
        state.budget.pay_growing(measurement.seconds_of_growing, first=not state.measured)
        others = sum(measurement.seconds.get(name, 0.0) for name in planned.others)
        of_prediction = measurement.seconds_of_needed + (0.0 if held is None else held.seconds)
        state.budget.pay(of_prediction, measurement.samples, others)
        state.epochs = epochs
        progress = planned_share(trainer, epochs)
        take(measurement, state, progress, epoch, failed, planned.riders, held_out=held)
        state.measured, state.failures, state.warned = True, 0, False
        state.fresh_step, state.pending = state.tried_step, measurement
        say_notes(state)
        say_contradiction(state)
        say_blind(state)


def compare_with_validation(trainer: Trainer, state: RunState, name: str | None, held_out: HeldOut) -> None:
    """Show the actual gap of this epoch, and the estimate that knows it, where there is a validation and its accuracy.

    `name` is the logged key of the accuracy, as in `Validation.accuracy`.
    """
    agree = trainer.strategy.reduce_boolean_decision
    if not (state.validated and agree("train_accuracy" in state.readout.fresh, all=True)):
        return
    found = None
    with contained(state, "reading the validation accuracy"):
        accuracy = state.validation.accuracy(trainer, name)
        if isinstance(accuracy, Refusal):
            say_no_actual_gap(state, accuracy)
            by_chance = state.validation.uncounted  # earlier figures of these keys only looked like shares of samples
            state.observations = [one for one in state.observations if one.source not in by_chance]
        else:
            say_reading(state, accuracy)
            actual_gap = state.readout.fresh["train_accuracy"] - accuracy.value
            state.readout.add("actual_gap", actual_gap)
            state.compared = True
            source = held_out.source_of_validation(trainer, state, accuracy.key)
            if accuracy.samples is not None and source is not None:
                found = Observed(accuracy.value, accuracy.samples, source)
    # Metrics may differ between ranks: rank 0 speaks for all.
    found = trainer.strategy.broadcast(found)
    with contained(state, "the estimate"):
        if found is not None and not knows_more(found, state):
            observe(found, state)
        show_estimate(state)
        say_contradiction(state)
    state.validated = False
