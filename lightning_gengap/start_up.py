"""The start of a training: which state goes on, which samples are watched, and what is measured only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_gengap.arguments import Selection
from lightning_gengap.errors import GapError
from lightning_gengap.measuring import account, say_failure
from lightning_gengap.observer import Observer
from lightning_gengap.probe import copy_state
from lightning_gengap.samples import FirstBatches, Reading, Samples, draw_samples
from lightning_gengap.session import Session
from lightning_gengap.wiring import placed_as_in_training, planned_share


@dataclass(frozen=True)
class StartUp:
    """How a monitor starts: the samples and layers to watch are found, and the task is described.

    Attributes:
        reading: how a batch that is on its device already is read.
        selection: of measures, those taken once per training among them.
        probe_data: an un-augmented view of the training set, see `draw_samples`.
        layers: module names to watch; None for the automatic choice.
    """

    reading: Reading
    selection: Selection
    probe_data: Any = None
    layers: Sequence[str] | None = None

    def begin(
        self,
        session: Session,
        trainer: Trainer,
        module: LightningModule,
        restored: dict[str, Any] | None,
        previous: Session | None,
    ) -> Session:
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

    def draw(self, trainer: Trainer) -> Samples | None:
        """Read the samples, placed as in training; None where only the batches of training itself can be copied.

        Raises:
            GapError: they cannot be read.
        """
        placed = replace(self.reading, place=placed_as_in_training(trainer))
        return draw_samples(trainer.train_dataloader, placed, self.probe_data, trainer.num_training_batches)

    def copy(self, batch: Any, first_batches: FirstBatches, session: Session, module: LightningModule) -> None:
        """Copy a batch of training; the first is watched at once, so that one that cannot be watched is raised.

        Raises:
            GapError: it is the first, before any step, and cannot be watched.
        """
        if session.observer is None:
            first_batches.add(batch)
            self._watch(first_batches.samples(), session, module)
            return
        try:
            first_batches.add(batch)
        except GapError as error:
            if not session.warned:
                say_failure(session, error, "while copying the first batches")

    def start(self, samples: Samples, session: Session, module: LightningModule, trainer: Trainer) -> None:
        """Watch the samples, and measure what describes the task: once per training.

        Raises:
            GapError: the model cannot be watched.
        """
        observer = self._watch(samples, session, module)
        taps = ", ".join(f"{tap.layer} = {tap}" for tap in observer.layout.taps) or "no hidden layer"
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
            observation = session.observe(module, ["fit", *needed], extras)
            account(session, observation, list(observation.failures), trainer.current_epoch)
            session.show(observation, planned_share(trainer, trainer.current_epoch))
        except Exception as error:
            say_failure(session, error, "the difficulty of the task")

    def _watch(self, samples: Samples, session: Session, module: LightningModule) -> Observer:
        return session.watch(module, samples, self.reading.forward, self.layers, self.reading.seed)
