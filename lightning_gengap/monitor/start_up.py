"""The start of a training: which state goes on, which samples are watched, and what is measured only once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_gengap.errors import GapError, frameless
from lightning_gengap.measurement import Measurer, naming_memory
from lightning_gengap.monitor.arguments import Selection
from lightning_gengap.monitor.early_stopping import GapEarlyStopping
from lightning_gengap.monitor.logged_keys import PREFIX
from lightning_gengap.monitor.measuring import account, say_failure
from lightning_gengap.monitor.readout import Status
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.trainer_facts import placed_as_in_training, planned_share
from lightning_gengap.network.probe import copy_state
from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.first_batches import FirstBatches
from lightning_gengap.samples.reader import SampleReader, Samples


@dataclass(frozen=True)
class StartUp:
    """How a monitor starts: the samples and layers to watch are found, and the task is described.

    Attributes:
        reading: how a batch that is on its device already is read.
        selection: of measures, those taken once per training among them.
        probe_data: an un-augmented view of the training set, see `draw_samples`.
        layers: module names to watch; None for the automatic choice.
    """

    reading: SampleReader
    selection: Selection
    probe_data: Any = None
    layers: Sequence[str] | None = None

    def begin(
        self,
        session: RunState,
        trainer: Trainer,
        module: LightningModule,
        restored: dict[str, Any] | None,
        previous: RunState | None,
    ) -> RunState:
        """Keep the initial weights, or go on from what a checkpoint or the last `fit` of this Trainer left."""
        session.schedule, session.wanted = self.selection.schedule(), self.selection.wanted
        if trainer.ckpt_path is None and trainer.global_step == 0:
            session.initial_state = copy_state(module)
            return session
        state = restored or (previous.state() if previous is not None else None)
        if state is not None:
            session.resume(state)
        if session.initial_state is None:
            rank_zero_warn(
                "GapMonitor has no initial weights, because the checkpoint was written without it: features that need "
                "them are missing, and a predictor that uses them abstains."
            )
        return session

    def watch(self, trainer: Trainer, module: LightningModule, session: RunState) -> FirstBatches | None:
        """Read the samples and watch them; or give what is to copy the batches of training, where nothing else can.

        Raises:
            GapError: they cannot be read, or the model cannot be watched.
        """
        samples = self._draw(trainer, module)
        if samples is None:
            return FirstBatches(self.reading)
        self.start(samples, session, module, trainer)
        return None

    def _draw(self, trainer: Trainer, module: LightningModule) -> Samples | None:
        """The samples, placed as in training; None where only the batches of training itself can be copied."""
        placed = replace(self.reading, place=placed_as_in_training(trainer))
        hook = module._current_fx_name  # Lightning leaves it at a transfer hook that fails, and then refuses `log`
        try:
            with naming_memory("reading the training samples"):
                return draw_samples(trainer.train_dataloader, placed, self.probe_data, trainer.num_training_batches)
        finally:
            module._current_fx_name = hook

    def copy(self, batch: Any, first_batches: FirstBatches, session: RunState, module: LightningModule) -> None:
        """Copy a batch of training; the first is watched at once, so that one that cannot be watched is raised.

        Raises:
            GapError: it is the first, before any step, and cannot be watched, see `tolerate_start_failures`.
        """
        if session.measurer is None and not session.warned:
            with tolerate_start_failures(session, module.trainer):
                _add(batch, first_batches)
                self._watch(first_batches.samples(), session, module)
            return
        try:
            _add(batch, first_batches)
        except GapError as error:
            if not session.warned:
                say_failure(session, error, "while copying the first batches")

    def start(self, samples: Samples, session: RunState, module: LightningModule, trainer: Trainer) -> None:
        """Watch the samples, and measure what describes the task: once per training.

        Raises:
            GapError: the model cannot be watched.
        """
        measurer = self._watch(samples, session, module)
        taps = ", ".join(f"{tap.layer} = {tap}" for tap in measurer.layout.taps) or "no hidden layer"
        known_size = "an unknown number of" if samples.train_samples is None else samples.train_samples
        rank_zero_info(f"GapMonitor watches {taps} on {len(samples)} of {known_size} training samples.")
        if samples.augmented:
            rank_zero_warn(
                "GapMonitor reads different inputs when it reads an index twice, so the training set is augmented. "
                "Pass probe_data=<the same training set without augmentation>; until then intervals are wider."
            )
        needed, extras = self.selection.once(session.taken)
        if not (needed or extras):
            return
        try:
            measurement = session.measure(module, ["fit", *needed], extras)
            account(session, measurement, list(measurement.failures), trainer.current_epoch)
            session.show(measurement, planned_share(trainer, trainer.current_epoch))
        except Exception as error:
            say_failure(session, error, "the difficulty of the task")

    def _watch(self, samples: Samples, session: RunState, module: LightningModule) -> Measurer:
        return session.watch(module, samples, self.reading.forward, self.layers, self.reading.seed)


@contextmanager
def tolerate_start_failures(session: RunState, trainer: Trainer) -> Iterator[None]:
    """Before the first step: what may pass is said once, and tried again at the next measurement.

    Raises:
        GapError: a mistake of the user's; or anything at all where failures are to be raised, or where another
            callback or a scheduler would end the run later, for want of the values.
    """
    try:
        yield
    except GapError as error:
        if session.raises or not error.may_pass or _is_waited_for(trainer):
            raise
        session.readout.hold(Status.FAILED)
        say_failure(session, frameless(error), "before the first step")


def _add(batch: Any, first_batches: FirstBatches) -> None:
    with naming_memory("copying a batch of training"):
        first_batches.add(batch)


def _is_waited_for(trainer: Trainer) -> bool:
    """Whether something of Lightning's ends the run where a value of ours is missing; status is always there."""
    readers: list[Any] = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        stops = isinstance(callback, EarlyStopping) and callback.strict and not isinstance(callback, GapEarlyStopping)
        if stops or (isinstance(callback, ModelCheckpoint) and trainer.enable_validation):
            readers.append(callback.monitor)
    readers += [config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau and config.strict]
    always = ("/status", "/overhead")
    return any(str(key).startswith(PREFIX) and not str(key).endswith(always) for key in readers)
