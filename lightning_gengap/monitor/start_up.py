"""The start of a training: its initial weights, the samples and layers to watch, and what is measured only once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_gengap.errors import GapError, frameless, naming_memory
from lightning_gengap.measurement import Measurer
from lightning_gengap.monitor.notices import (
    say_failure,
    say_no_initial_weights,
    say_optional_failures,
    say_other_data,
    say_other_measuring,
    say_unknown_size,
    say_unreadable,
    say_watched,
)
from lightning_gengap.monitor.origin import Origin, fitting, weights_digest
from lightning_gengap.monitor.readout import Status
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.saved_state import StateError
from lightning_gengap.monitor.schedule import Budget, Selection
from lightning_gengap.monitor.trainer_facts import (
    batches_trained,
    current_hook_kept,
    ends_without_values,
    place_in_training,
    planned_epochs,
    planned_share,
)
from lightning_gengap.network.probe import copy_state
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.fingerprint import Fingerprint
from lightning_gengap.samples.nested import copied
from lightning_gengap.samples.reader import SampleReader, Samples, checked_batches
from lightning_gengap.samples.trainable_indices import trainable


@dataclass(frozen=True)
class StartUp:
    """How the samples and layers to watch are found; the fields are arguments of `draw_samples` and `Layout.of`."""

    reader: SampleReader
    probe_data: Any = None
    layers: Sequence[str] | None = None

    def run(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Read the samples and watch them before the first step, or prepare to copy the first batches."""
        with tolerate_start_failures(state, trainer):
            self._read_and_start(trainer, module, state)

    def copy(self, batch: Any, module: LightningModule, state: RunState) -> None:
        """Copy a batch of training, where the data can only be read so and there are too few samples yet.

        The first is watched at once, so that one that cannot be watched is refused before the first step.
        """
        copies = state.first_batches
        if copies is None or self.reader.has_enough(copies):
            return
        if state.measurer is None and not state.warned:
            with tolerate_start_failures(state, module.trainer):
                self._add(batch, copies)
                self._watch(_streamed(copies), module, state)
            return
        try:
            self._add(batch, copies)
        except GapError as error:
            if not state.warned:
                say_failure(state, error, "while copying the first batches")

    def _add(self, batch: Any, copies: list[ProbeBatch]) -> None:
        with naming_memory("copying a batch of training"):
            copies.append(self.reader.batch(copied(batch)))

    def finish(self, trainer: Trainer, module: LightningModule, state: RunState) -> Measurer:
        """Watch all copied batches once the first epoch has ended, or make up for a start that failed."""
        started = time.perf_counter()
        if state.first_batches is not None:
            self._start(_streamed(checked_batches(state.first_batches)), trainer, module, state)
            state.first_batches = None
        elif state.measurer is None:
            self._read_and_start(trainer, module, state)
        state.budget.start_up += time.perf_counter() - started
        if state.measurer is None:
            raise RuntimeError("there are no samples yet; the first batches of the next epoch are copied.")
        return _counted(state.measurer, trainer, state)

    def reload(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Watch the samples of a loader that Lightning has asked for again, where its first ones are not the same.

        Data that can only be iterated are copied again.
        """
        if state.measurer is None or state.origin is None or state.read_in == trainer.current_epoch:
            return
        started = time.perf_counter()
        try:
            state.pool = trainable(trainer.train_dataloader, trainer.num_training_batches)
            head = self._head(state.origin, module, state)
            if head is None or state.origin.head.differences(head):
                state.measurer = None
                self._read_and_start(trainer, module, state)
        except Exception as error:
            state.measurer = None
            state.readout.hold(Status.FAILED)
            say_failure(state, frameless(error), "the samples of the loader that was asked for again")
        seconds = time.perf_counter() - started
        state.clock += seconds
        state.budget.spent += seconds

    def _read_and_start(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        state.read_in = trainer.current_epoch
        state.pool = trainable(trainer.train_dataloader, trainer.num_training_batches)
        samples = self._read(trainer, module, self.reader)
        if samples is None:
            state.first_batches = []
        else:
            self._start(samples, trainer, module, state)

    def _read(self, trainer: Trainer, module: LightningModule, reader: SampleReader) -> Samples | None:
        reader = replace(reader, place=place_in_training(trainer))
        with naming_memory("reading the training samples"), current_hook_kept(module):
            return draw_samples(trainer.train_dataloader, reader, self.probe_data, trainer.num_training_batches)

    def _start(self, samples: Samples, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Watch the samples, and measure once what describes the task."""
        if state.pool is not None:
            samples = replace(samples, train_samples=state.pool.met(planned_epochs(trainer)))
            if not state.pool.known:
                say_unknown_size(state)
        measurer = self._watch(samples, module, state)
        say_watched(measurer, None if state.pool is None or not state.pool.known else len(state.pool.indices))
        needed, optional = state.selection.once(state.memory.taken)
        if not (needed or optional):
            return
        epoch = trainer.current_epoch
        try:
            measurement = state.measure(measurer, module, ["fit", *needed], optional)
            say_optional_failures(state, measurement, measurement.failures, epoch)
            state.take(measurement, planned_share(trainer, epoch), epoch, measurement.failures)
        except Exception as error:
            say_failure(state, error, "the difficulty of the task")

    def _watch(self, samples: Samples, module: LightningModule, state: RunState) -> Measurer:
        """Watch these samples from now on. The first time, show the values before any step."""
        measurer = Measurer.of(
            module,
            samples,
            state.memory,
            self.reader.forward,
            self.layers,
            seed=self.reader.seed,
            wanted=state.selection.wanted,
            raises=state.raises,
        )
        is_new = self._settle(measurer, module, state)
        measurer = replace(measurer, memory=state.memory)
        if is_new or not state.readout.shown:
            measurement = state.measure(measurer, module, ["fit"])
            _judge_start(state, measurer, module, measurement.values["train_accuracy"])
            state.take(measurement)
        elif "train_accuracy" not in state.readout.shown:  # it could not be watched before the first step
            _judge_start(state, measurer, module, None)
        if samples.augmented:
            state.doubt("augmented_probe")
        if state.origin is not None and not state.origin.logits:
            state.origin = state.origin.with_logits(measurer, module)
        state.measurer = measurer
        return measurer

    def _settle(self, measurer: Measurer, module: LightningModule, state: RunState) -> bool:
        """Let earlier values go on where they belong to these samples; return whether others were watched before."""
        drawn = () if state.pool is None or self.probe_data is not None else self.reader.draw(state.pool.indices)
        new = Origin.of(measurer, state.pool, drawn, self.reader.samples)
        old = state.past.get("origin", state.origin)
        if old is None:
            state.past, state.origin = {}, new
            return False
        head = None if old.drawn_alike(new.seed, new.asked) else self._head(old, module, state)
        differences = old.other_data(new, head)
        shuffled = bool(differences) and state.pool is None and self._is_shuffled(old, new, measurer, module, state)
        if differences and not shuffled:
            was_watched, state.past = not state.past, {}
            state.begin_anew(batches_trained(module.trainer))
            state.origin = new
            say_other_data(state, differences)
            return was_watched
        state.resume()
        new = new.with_logits(replace(measurer, memory=state.memory), module)
        changes = ["a stream gives other samples"] if shuffled else old.other_measuring(new)
        if changes:
            state.forget_measured()
            say_other_measuring(state, changes)
        elif old.lacks_keys(new):
            state.memory.forget()
        state.origin = new if new.samples.count >= old.samples.count or changes else old
        return bool(changes)

    def _is_shuffled(
        self, old: Origin, new: Origin, measurer: Measurer, module: LightningModule, state: RunState
    ) -> bool:
        """Whether other samples of a stream are as well classified as those before, by the same weights."""
        readout = state.past.get("readout", state.readout)
        before, now = readout.shown.get("train_accuracy"), measurer.accuracy(module)
        if before is None or now is None or not old.same_kind(new):
            return False
        spread = 0.25 * (1 / new.samples.count + 1 / old.samples.count)
        return now >= before - 3 * math.sqrt(spread)

    def _head(self, old: Origin, module: LightningModule, state: RunState) -> Fingerprint | None:
        """The first of these samples as the monitor had drawn them then."""
        if state.pool is None:
            return None
        reader = replace(self.reader, seed=old.seed, samples=old.head.count)
        samples = self._read(module.trainer, module, reader)
        if samples is None:
            return None
        drawn = () if self.probe_data is not None else reader.draw(state.pool.indices)
        return Fingerprint.of(replace(samples, train_samples=len(state.pool.indices)), drawn)


def begin(
    trainer: Trainer,
    module: LightningModule,
    selection: Selection,
    budget: float | None,
    raises: bool,
    loaded: Mapping[str, Any] | None,
    previous: RunState | None,
) -> RunState:
    """The state of a training that begins, or goes on once the samples are known to be those of before.

    The checkpoint that training resumes from has `loaded`; it is None without one. The last `fit` left `previous`.
    """
    state = RunState(selection, Budget(budget), selection.schedule(), raises)
    state.began = batches_trained(trainer)
    goes_on = loaded is None and previous is not None and weights_digest(module) in previous.seen
    if state.began == 0:
        known = fitting(previous.memory.initial_state, module) if goes_on and previous is not None else None
        state.memory.initial_state = copy_state(module) if known is None else known
        return state
    saved = loaded if loaded is not None else {} if previous is None else previous.state()
    earlier = saved.get("memory")
    state.spare = fitting(earlier.get("initial_state") if isinstance(earlier, Mapping) else None, module)
    if loaded is None and not goes_on:
        state.memory.initial_state, state.unsure = copy_state(module), True  # as long as they do not know the task
        return state
    state.memory.initial_state, state.fresh = state.spare, False
    if loaded is None and previous is not None:
        state.seen = previous.seen
    try:
        if saved:
            state.prepare(saved)
    except StateError as error:
        state.began = 0  # as far as is known, these data were trained on from the start
        say_unreadable(error, has_weights=state.spare is not None)
    else:
        if state.spare is None:
            say_no_initial_weights("holds those of another network" if saved else "was written without it")
        if state.past and state.spare is None:
            state.past["memory"].initial_state = None
    return state


@contextmanager
def tolerate_start_failures(state: RunState, trainer: Trainer) -> Iterator[None]:
    """Say once what fails before the first step and may pass. It is tried again at the next measurement.

    A mistake of the user's is raised. So is any failure where failures are errors, or where another callback or a
    scheduler would end the run later because the values are missing.
    """
    try:
        yield
    except GapError as error:
        if state.raises or not error.may_pass or ends_without_values(trainer):
            raise
        state.readout.hold(Status.FAILED)
        say_failure(state, frameless(error), "before the first step")


def _counted(measurer: Measurer, trainer: Trainer, state: RunState) -> Measurer:
    """The measurer that knows how many samples training has met so far."""
    if state.pool is None:
        return measurer
    epochs = (batches_trained(trainer) - state.began) / trainer.num_training_batches
    return replace(measurer, samples=replace(measurer.samples, train_samples=state.pool.met(epochs)))


def _judge_start(state: RunState, measurer: Measurer, module: LightningModule, accuracy: float | None) -> None:
    """Flag initial weights, and weights at the start, that know the task or may.

    `accuracy` is that of the weights at the start; None where training has gone on since.
    """
    initial = measurer.initial_accuracy(module)
    knowing = _knows(measurer, initial) or (state.fresh and accuracy is not None and _knows(measurer, accuracy))
    if state.unsure and knowing:
        state.memory.initial_state = state.spare
        if state.spare is None:
            say_no_initial_weights()
    state.unsure, state.spare, state.fresh = False, None, False
    if knowing:
        state.doubt("initial_weights")


def _knows(measurer: Measurer, accuracy: float | None) -> bool:
    """Whether weights of this accuracy know the task, or may: it is None where it is unknown."""
    chance = measurer.chance()
    noise = 2 * math.sqrt(chance * (1 - chance) / len(measurer.samples))  # the first batch alone may be small
    return accuracy is None or accuracy > chance + 0.25 * (1 - chance) + noise


def _streamed(batches: Sequence[ProbeBatch]) -> Samples:
    return Samples(tuple(batches), train_samples=None, augmented=False)
