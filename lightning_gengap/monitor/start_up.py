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
from torch.nn.parameter import is_lazy

from lightning_gengap.errors import GapError, MeasureError, frameless, naming_memory, one_line
from lightning_gengap.measurement import Measurer, TrainingMemory
from lightning_gengap.monitor.containment import contained, give_up
from lightning_gengap.monitor.notices import (
    say_copied_instead,
    say_failure,
    say_no_initial_weights,
    say_optional_failures,
    say_watched,
)
from lightning_gengap.monitor.readout import Status
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.schedule import Budget, Selection
from lightning_gengap.monitor.trainer_facts import (
    current_hook_kept,
    move_in_training,
    place_in_training,
    planned_share,
)
from lightning_gengap.network.probe import copy_state
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.nested import copied
from lightning_gengap.samples.reader import SampleReader, Samples, checked_batches
from lightning_gengap.samples.trainable_indices import trainable_indices
from lightning_gengap.undisturbed import undisturbed

_CALLED_OTHERWISE = "If training calls the model otherwise, pass forward=lambda module, batch: logits. "


@dataclass(frozen=True)
class StartUp:
    """How the samples and layers to watch are found; the fields are arguments of `draw_samples` and `Layout.of`."""

    reader: SampleReader
    probe_data: Any = None
    layers: Sequence[str] | None = None

    def run(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Read the samples and watch them before the first step, or prepare to copy the first batches."""
        with tolerate_start_failures(state):
            if any(map(is_lazy, module.parameters())):  # a forward of ours would make them, and draw random numbers
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

    def finish(self, trainer: Trainer, module: LightningModule, state: RunState) -> Measurer:
        """Watch all copied batches once the first epoch has ended, or make up for a start that failed."""
        started = time.perf_counter()
        if state.first_batches is not None:
            copies = checked_batches(state.first_batches)
            self._start(self._copied(copies, state), trainer, module, state)
            state.first_batches = None
        elif state.measurer is None:
            self._read_and_start(trainer, module, state)
        state.budget.start_up += time.perf_counter() - started
        if state.measurer is None:
            raise RuntimeError("there are no samples yet; the first batches of the next epoch are copied.")
        return state.measurer

    def _read_and_start(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        samples = self._read(trainer, module, state)
        if samples is None:
            state.first_batches = []
        else:
            self._start(samples, trainer, module, state)

    def _read(self, trainer: Trainer, module: LightningModule, state: RunState) -> Samples | None:
        """The samples; None where only batches of training can be copied, also because reading by index failed."""
        reader = replace(self.reader, place=place_in_training(trainer), move=move_in_training(trainer))
        loader = trainer.train_dataloader
        try:
            with naming_memory("reading the training samples"), undisturbed(module), current_hook_kept(module):
                keep = (trainer, module)
                return draw_samples(loader, reader, self.probe_data, trainer.num_training_batches, keep)
        except GapError:
            raise
        except Exception as error:  # the user's data set, collate function or transfer hook
            if state.raises:
                raise
            if self.probe_data is not None:
                raise MeasureError(
                    "reading probe_data",
                    got=one_line(error),
                    expected="samples that can be read by index, or batches",
                    remedy="Pass another view of the training set, or none: then training data are read.",
                ) from error
            state.trained_on = _count(loader, trainer)
            say_copied_instead(state, error)
            return None

    @staticmethod
    def _copied(batches: Sequence[ProbeBatch], state: RunState) -> Samples:
        return Samples(tuple(batches), state.trained_on, augmented=False)

    def _start(self, samples: Samples, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Watch the samples, and measure once what describes the task."""
        measurer = self._watch(samples, module, state)
        say_watched(measurer)
        for note in samples.notes:
            if state.says_first(note):
                rank_zero_info(f"GapMonitor: {note}.")
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
        if not state.readout.shown:
            measurement = state.measure(measurer, module, ["fit"])
            untrained = module.trainer.global_step == 0
            initial = measurement.values["train_accuracy"] if untrained else measurer.initial_accuracy(module)
            _doubt_initial_weights(state, measurer, initial)
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
    state = RunState(selection, Budget(budget), selection.schedule(), raises)
    with contained(state, "beginning"):
        state.memory = TrainingMemory(copy_state(module) if fresh else None)
        if saved and not fresh:
            state.resume(saved)
        if state.memory.initial_state is None:
            say_no_initial_weights()
    return state


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
        if not isinstance(error, GapError):
            state.untold = frameless(error)
            state.readout.hold(Status.FAILED)
        elif error.may_pass:
            state.readout.hold(Status.FAILED)
            say_failure(state, frameless(error), "before the first step")
        else:
            give_up(state, frameless(error))


def _doubt_initial_weights(state: RunState, measurer: Measurer, accuracy: float | None) -> None:
    """Flag initial weights that know the task, or may: the accuracy at them is None where it is unknown."""
    chance = measurer.chance()
    noise = 2 * math.sqrt(chance * (1 - chance) / len(measurer.samples))  # the first batch alone may be small
    if accuracy is None or accuracy > chance + 0.25 * (1 - chance) + noise:
        state.doubt("initial_weights")


def _count(loader: Any, trainer: Trainer) -> int | None:
    try:
        indices = trainable_indices(loader, trainer.num_training_batches)
    except Exception:  # it was this that failed
        return None
    return None if indices is None else len(indices)
