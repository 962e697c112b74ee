"""The start of a training: its initial weights, the samples and layers to watch, and what is measured only once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_gengap.errors import GapError, frameless, naming_memory
from lightning_gengap.measurement import Measurer, TrainingMemory
from lightning_gengap.monitor.notices import say_failure, say_no_initial_weights, say_optional_failures, say_watched
from lightning_gengap.monitor.readout import Status
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.schedule import Budget, Selection
from lightning_gengap.monitor.trainer_facts import (
    current_hook_kept,
    ends_without_values,
    place_in_training,
    planned_share,
)
from lightning_gengap.network.probe import copy_state
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.nested import copied
from lightning_gengap.samples.reader import SampleReader, Samples, checked_batches


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
        return state.measurer

    def _read_and_start(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        reader = replace(self.reader, place=place_in_training(trainer))
        with naming_memory("reading the training samples"), current_hook_kept(module):
            samples = draw_samples(trainer.train_dataloader, reader, self.probe_data, trainer.num_training_batches)
        if samples is None:
            state.first_batches = []
        else:
            self._start(samples, trainer, module, state)

    def _start(self, samples: Samples, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Watch the samples, and measure once what describes the task."""
        measurer = self._watch(samples, module, state)
        say_watched(measurer)
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
        if samples.augmented:
            state.doubt("augmented_probe")
        if measurer.first.interaction is not None:
            state.doubt("samples_interact")
        if not state.readout.shown:
            measurement = state.measure(measurer, module, ["fit"])
            _doubt_initial_weights(state, measurer, measurement.values["train_accuracy"])
            state.take(measurement)
        elif "train_accuracy" not in state.readout.shown:  # it could not be watched before the first step
            _doubt_initial_weights(state, measurer, measurer.initial_accuracy(module))
        state.measurer = measurer
        return measurer


def begin(
    trainer: Trainer,
    module: LightningModule,
    selection: Selection,
    budget: float | None,
    raises: bool,
    saved: dict[str, Any],
) -> RunState:
    """The state of a training that begins, or goes on from what a checkpoint or the last `fit` has `saved`."""
    fresh = trainer.ckpt_path is None and trainer.global_step == 0
    memory = TrainingMemory(copy_state(module) if fresh else None)
    state = RunState(selection, Budget(budget), selection.schedule(), raises, memory)
    if saved and not fresh:
        state.resume(saved)
    if state.memory.initial_state is None:
        say_no_initial_weights()
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


def _doubt_initial_weights(state: RunState, measurer: Measurer, accuracy: float | None) -> None:
    """Flag initial weights that know the task, or may: the accuracy at them is None where it is unknown."""
    chance = measurer.chance()
    noise = 2 * math.sqrt(chance * (1 - chance) / len(measurer.samples))  # the first batch alone may be small
    if accuracy is None or accuracy > chance + 0.25 * (1 - chance) + noise:
        state.doubt("initial_weights")


def _streamed(batches: Sequence[ProbeBatch]) -> Samples:
    return Samples(tuple(batches), train_samples=None, augmented=False)
