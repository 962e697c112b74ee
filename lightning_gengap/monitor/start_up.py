"""The start of a training: its initial weights, the samples and layers to watch, and what is measured only once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.nn.parameter import is_lazy

from lightning_gengap.errors import GapError, frameless, naming_memory
from lightning_gengap.measurer import Measurer
from lightning_gengap.monitor.containment import give_up
from lightning_gengap.monitor.continuation import judge_start, settle
from lightning_gengap.monitor.notices import say_failure, say_optional_failures, say_unknown_size, say_watched
from lightning_gengap.monitor.origin import Origin
from lightning_gengap.monitor.outcome import examine, start, take
from lightning_gengap.monitor.readout import Status
from lightning_gengap.monitor.rehearsal import rehearse
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.trainer_facts import batches_trained, planned_epochs, planned_share
from lightning_gengap.monitor.training_samples import drawn_from, fingerprint_of, pool_of, read_samples, size_of
from lightning_gengap.network.probe import copy_state
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.fingerprint import Fingerprint
from lightning_gengap.samples.kind_of_data import kind_of_inputs
from lightning_gengap.samples.nested import copied
from lightning_gengap.samples.reader import SampleReader, Samples, checked_batches, count
from lightning_gengap.samples.trainable_indices import why_unknown

_CALLED_OTHERWISE = (
    "If training_step calls the model on other inputs than the batch's, pass forward=lambda module, batch: "
    "module(prepared(batch)), where `prepared` makes them so. "
)


@dataclass(frozen=True)
class StartUp:
    """How the samples and layers to watch are found; the fields are arguments of `draw_samples` and `Layout.of`."""

    reader: SampleReader
    probe_data: Any = None
    layers: Sequence[str] | None = None

    def run(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Read the samples and watch them before the first step, or prepare to copy the first batches."""
        with tolerate_start_failures(state):
            # A forward of ours would make them, and draw random numbers. The module's own method may count its calls.
            if any(is_lazy(parameter) for _, parameter in nn.Module.named_parameters(module)):
                raise RuntimeError("lazy parameters do not exist before the first forward.")
            self._read_and_start(trainer, module, state)

    def copy(self, batch: Any, module: LightningModule, state: RunState) -> None:
        """Copy a batch of training, where the data can only be read so and there are too few samples yet.

        The first is watched at once, so that one that cannot be watched is said before the first step.
        """
        copies = state.first_batches
        if copies is None or self.reader.has_enough(copies):
            return
        if state.measurer is None and not state.warned and state.untold is None:
            with tolerate_start_failures(state):
                self._add(batch, copies)
                self._watch(self._copied(copies, state), module, state)
            return
        try:
            self._add(batch, copies)
        except Exception as error:
            if not state.warned:
                say_failure(state, frameless(error), "while copying the first batches")

    def add_lazy_weights(self, module: LightningModule, state: RunState) -> None:
        """Add to the initial weights what lazy modules have only made in the first forward of training."""
        initial = state.memory.initial_state
        if initial is None or state.untold is None:
            return
        late = copy_state(module)
        state.memory.initial_state = {**late, **initial}

    def try_again(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Try again after the first step what failed before it: some modules work only then. A failure is now said."""
        failed, state.untold = state.untold, None
        if failed is None:
            return
        started = time.perf_counter()
        try:
            if state.first_batches is None:
                self._read_and_start(trainer, module, state)
            elif state.first_batches:
                self._watch(self._copied(state.first_batches, state), module, state)
            else:
                raise failed
        except Exception as error:
            way_out = "" if isinstance(error, GapError) else _CALLED_OTHERWISE
            say_failure(state, frameless(error), "before and after the first step", way_out)
        finally:
            state.budget.start_up += time.perf_counter() - started

    def _add(self, batch: Any, copies: list[ProbeBatch]) -> None:
        with naming_memory("copying a batch of training"):
            copies.append(self.reader.batch(copied(batch)))

    def finish(self, trainer: Trainer, module: LightningModule, state: RunState, ended: bool) -> Measurer:
        """Watch the batches copied so far, or make up for a start that failed.

        While more are being copied, those at hand are watched instead of earlier ones once they are twice as many, so
        that few starts are paid for. Copying is over with enough samples, or where it has `ended` with the epoch.
        """
        started = time.perf_counter()
        if (copies := state.first_batches) is not None:
            is_complete = ended or self.reader.has_enough(copies)
            if is_complete or self._are_worth_a_start(copies, state):
                self._start(self._copied(checked_batches(copies), state), trainer, module, state)
            if is_complete:
                state.first_batches = None
        elif state.measurer is None:
            self._read_and_start(trainer, module, state)
        state.budget.start_up += time.perf_counter() - started
        if state.measurer is None:
            raise RuntimeError("there are no samples yet; the first batches of the next epoch are copied.")
        return _counted(state.measurer, trainer, state)

    @staticmethod
    def _are_worth_a_start(copies: Sequence[ProbeBatch], state: RunState) -> bool:
        """Whether nothing was started yet, or on half as many samples at most."""
        if state.measurer is None or any(state.selection.once(state.memory.taken)):
            return True
        return count(copies) >= 2 * len(state.measurer.samples)

    def reload(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Watch the samples of a loader that Lightning has asked for again, where its first ones are not the same.

        Data that can only be iterated are copied again.
        """
        if state.measurer is None or state.origin is None or state.read_in == trainer.current_epoch:
            return
        with state.paused():
            try:
                state.pool = pool_of(trainer)
                head = self._head(state.origin, module, state)
                if head is None or state.origin.head.differences(head):
                    state.measurer = None
                    state.hold(Status.HELD)
                    self._read_and_start(trainer, module, state)
            except Exception as error:
                state.measurer = None
                state.hold(Status.FAILED)
                say_failure(state, frameless(error), "the samples of the loader that was asked for again")

    def _read_and_start(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        state.read_in = trainer.current_epoch
        state.pool = pool_of(trainer)
        if state.pool is None:
            say_unknown_size(state, why_unknown(trainer.train_dataloader))
        samples = read_samples(trainer, module, self.reader, self.probe_data, state)
        if samples is None:  # batches of training are copied, whose samples are not those of any indices
            state.trained_on = None if state.pool is None else state.pool.met(planned_epochs(trainer))
            state.first_batches, state.pool = [], None
        else:
            self._start(samples, trainer, module, state)

    @staticmethod
    def _copied(batches: Sequence[ProbeBatch], state: RunState) -> Samples:
        return Samples(tuple(batches), state.trained_on, augmented=False)

    def _start(self, samples: Samples, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Watch the samples, and measure once what describes the task."""
        if state.pool is not None:
            samples = replace(samples, train_samples=state.pool.met(planned_epochs(trainer)))
            if not state.pool.known:
                say_unknown_size(state, "the sampler takes other samples in every epoch")
        measurer = self._watch(samples, module, state)
        say_watched(state, measurer, size_of(samples, state.pool))
        for note in samples.notes:
            if state.says_first(note):
                rank_zero_info(f"GapMonitor: {note}.")
        needed, optional = state.selection.once(state.memory.taken)
        if not (needed or optional):
            return
        epoch = trainer.current_epoch
        seconds = state.budget.spare(0.0, 0.0, first=not state.measured) if trainer.world_size == 1 else math.inf
        try:
            measured = measurer.measure(module, ["fit", *needed], optional, seconds=seconds)
            measurement = examine(measured, measurer, state)
            say_optional_failures(state, measurement, measurement.failures, epoch)
            take(measurement, state, planned_share(trainer, epoch), epoch, measurement.failures, predicts=False)
        except Exception as error:
            say_failure(state, error, "the difficulty of the task")

    def _watch(self, samples: Samples, module: LightningModule, state: RunState) -> Measurer:
        """Watch these samples from now on. The first time, remember the values before any step."""
        rehearse(module, samples, self.reader.forward, self.layers, state)
        state.kind = kind_of_inputs(samples.batches[0].inputs)
        if state.kind == "images":
            state.selection = state.selection.on_images()
            fresh = state.selection.schedule()
            state.schedule.needed, state.schedule.forwards = fresh.needed, fresh.forwards
        measurer = Measurer.of(
            module,
            samples,
            state.memory,
            self.reader.forward,
            self.layers,
            seed=self.reader.seed,
            wanted=state.selection.wanted,
            raises=state.raises,
            named=frozenset(state.selection.named),
        )
        drawn = drawn_from(state.pool, self.reader, self.probe_data)
        origin = Origin.of(measurer, state.pool, drawn, self.reader.samples)
        is_new = settle(measurer, module, state, origin, lambda old: self._head(old, module, state))
        measurer = replace(measurer, memory=state.memory)
        if state.missed_start:  # it could not be watched before the first step
            judge_start(state, measurer, module, None)
            state.missed_start = False
        elif is_new or not state.readout.last:
            measurement = examine(measurer.measure(module, ["fit"]), measurer, state)
            judge_start(state, measurer, module, measurement.values["train_accuracy"])
            start(measurement, state)
        if samples.augmented:
            state.doubt("augmented_probe")
        if measurer.first.interaction is not None:
            state.doubt("samples_interact")
        if state.origin is not None and not state.origin.logits:
            state.origin = state.origin.with_logits(measurer, module)
        state.measurer, state.drawn = measurer, samples.drawn
        return measurer

    def _head(self, old: Origin, module: LightningModule, state: RunState) -> Fingerprint | None:
        """The first of these samples as the monitor had drawn them then."""
        reader = replace(self.reader, seed=old.seed, samples=old.head.count)
        return fingerprint_of(module, reader, self.probe_data, state)


@contextmanager
def tolerate_start_failures(state: RunState) -> Iterator[None]:
    """Say once what fails before the first step, unless failures are errors. Training goes on unchanged.

    What may pass is tried again at the next measurement. A failure of the user's own code is tried again after the
    first step, and only said if it fails then too. What cannot pass switches the monitor off.
    """
    try:
        yield
    except Exception as error:
        if state.raises:
            raise
        state.missed_start = True
        if not isinstance(error, GapError):
            state.untold = frameless(error)
            state.hold(Status.FAILED)
        elif error.may_pass:
            state.hold(Status.FAILED)
            say_failure(state, frameless(error), "before the first step")
        else:
            give_up(state, frameless(error))


def _counted(measurer: Measurer, trainer: Trainer, state: RunState) -> Measurer:
    """The measurer that knows how many samples training has met so far."""
    if state.pool is None:
        return measurer
    epochs = (batches_trained(trainer) - state.began) / trainer.num_training_batches
    return replace(measurer, samples=replace(measurer.samples, train_samples=state.pool.met(epochs)))
