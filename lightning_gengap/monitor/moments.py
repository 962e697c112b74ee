"""What happens at each moment of a training: plan, measure, compare, publish to callbacks, log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_gengap.monitor.containment import contained
from lightning_gengap.monitor.epoch_measurement import compare_with_validation, measure, plan
from lightning_gengap.monitor.held_out import HeldOut
from lightning_gengap.monitor.loggers import Display
from lightning_gengap.monitor.readers import Moment, looks_after_steps, modes, readers_of, reads_now, warn_readers
from lightning_gengap.monitor.readout import Status
from lightning_gengap.monitor.replay import Trained
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.start_up import StartUp
from lightning_gengap.monitor.trainer_facts import is_last, minimised_loss, scalar_step, share_of_epoch, weights_step


@dataclass(frozen=True)
class Moments:
    """The moments of a training. The fields are arguments or parts of the monitor."""

    display: Display
    start_up: StartUp
    held_out: HeldOut
    every_n_epochs: int = 1
    every_n_train_steps: int | None = None
    validation_accuracy: str | None = None

    def logs(self, key: str, prefix: str, trainer: Trainer) -> bool:
        """Whether callbacks will find this full key, if ours have this prefix."""
        return key.startswith(prefix) and self.display.logs(key.removeprefix(prefix), trainer)

    def start(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Find who reads our keys, and let all find a value of every key before the first step."""
        readers = [reader for reader in readers_of(trainer) if self.logs(reader.key, state.prefix, trainer)]
        warn_readers(readers, self.every_n_train_steps, trainer.enable_validation)
        state.readers = [replace(reader, key=reader.key.removeprefix(state.prefix)) for reader in readers]
        state.due_steps = trainer.global_step // (self.every_n_train_steps or 1)
        self.display.lay_out(trainer, state)
        self._publish(trainer, module, state)

    def batch_start(self, trainer: Trainer, module: LightningModule, state: RunState, batch: Any, number: int) -> None:
        """Copy the batch where the data can only be read so; watch the step's logits where they are needed."""
        if state.off is not None:
            return
        self.start_up.copy(batch, module, state)
        state.replay.begin(module, batch, state.measurer)
        if state.measurer is not None:
            state.training_loss.begin_step(module, state.measurer.classes, trainer.current_epoch, number)

    def before_backward(self, trainer: Trainer, module: LightningModule, state: RunState, loss: Tensor) -> None:
        """Copy what lazy modules have made; replay the first batch of training."""
        self.start_up.add_lazy_weights(module, state)
        state.replay.check(trainer, module, state.measurer, Trained(loss, self.start_up.reader.batch))

    def batch_end(self, trainer: Trainer, module: LightningModule, state: RunState, outputs: Any, batch: Any) -> None:
        """Add the step's loss to the running means; measure where a number of steps makes it due."""
        state.replay.end_step()
        with state.paused():  # short steps make it dear
            loss = minimised_loss(trainer, module, outputs)
            state.training_loss.step(loss, lambda: self.start_up.reader.batch(batch).targets)
        self.start_up.try_again(trainer, module, state)
        self._step(trainer, module, state)

    def _step(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """After a batch: measure where an optimizer step has made it due; otherwise nothing is of now any longer."""
        due_steps = trainer.global_step // (self.every_n_train_steps or 1)
        if self.every_n_train_steps is not None and due_steps > state.due_steps:
            state.due_steps = due_steps
            with state.paused():
                self._take(trainer, module, state, "step", share_of_epoch(trainer), due=True)
                self._publish(trainer, module, state)
                self.display.log(trainer, state, scalar_step(trainer, False), trainer.current_epoch)
        elif state.fresh_step not in (None, weights_step(trainer)) and looks_after_steps(state.readers):
            state.hold(Status.HELD)
            self._publish(trainer, module, state)

    def validation_start(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Measure where somebody reads our keys at the end of the validation that begins."""
        state.validation.begin()
        state.validation.weights.look(module)
        if not reads_now(state.readers, "validation", trainer):
            return
        with state.paused():
            share = share_of_epoch(trainer)
            self._take(trainer, module, state, "validation", share)
            self._publish(trainer, module, state)

    def validation_batch_end(
        self, module: LightningModule, state: RunState, batch: Any, place: tuple[int, int]
    ) -> None:
        """Count the samples of the batch; `place` is its number, and that of its loader."""
        state.validation.count(lambda: self.start_up.reader.batch(batch), place[1])
        if place == (0, 0):
            state.validation.weights.look(module)

    def validation_end(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Compare the prediction of these weights, if there is one, with the validation that has ended."""
        state.validated = True
        state.validation.weights.look(module)
        state.validation.end(trainer)
        if state.fresh_step != weights_step(trainer):
            return
        with state.paused():
            compare_with_validation(trainer, state, self.validation_accuracy, self.held_out)
            self._publish(trainer, module, state)
            if (state.compared or state.pending is not None) and share_of_epoch(trainer) < 1.0:
                self.display.log(trainer, state, scalar_step(trainer, False), trainer.current_epoch)

    def epoch_end(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Measure if it is due, and log what is of now."""
        by_epoch = self.every_n_train_steps is None
        due = by_epoch and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        with state.paused():
            self._take(trainer, module, state, "epoch", 1.0, due)
            compare_with_validation(trainer, state, self.validation_accuracy, self.held_out)
            self._publish(trainer, module, state)
            self.display.log(trainer, state, scalar_step(trainer), trainer.current_epoch)
        state.validated = False
        state.budget.end_epoch(state.is_growing)

    def end(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Measure the final weights, where training has ended after an epoch without a measurement."""
        if weights_step(trainer) in (0, state.tried_step):
            return
        with state.paused():
            self._take(trainer, module, state, None, 0.0, last=True)
            self._publish(trainer, module, state)
            if state.pending is not None:
                self.display.log(trainer, state, scalar_step(trainer), trainer.current_epoch - 1)

    def _take(
        self,
        trainer: Trainer,
        module: LightningModule,
        state: RunState,
        moment: Moment | None,
        share: float,
        due: bool = False,
        last: bool = False,
    ) -> None:
        """Measure if something is to be measured, and these weights were not tried before."""
        if state.tried_step == weights_step(trainer):
            return
        notice = state.replay.settle(trainer, state, self.start_up.reader.forward is not None)
        if notice is not None:
            rank_zero_info(notice)
        by_epoch = self.every_n_train_steps is None
        read = moment is not None and reads_now(state.readers, moment, trainer, waiting=not by_epoch)
        last = last or is_last(trainer, trainer.current_epoch + share)
        ended = last or moment not in ("step", "validation")  # after an epoch no more batches are copied
        if not ended and self._lacks_samples(trainer, state):
            state.hold(Status.HELD)
            return
        planned = plan(trainer, state, due, read, last, retries=by_epoch and moment == "epoch", share=share)
        if planned is not None:
            measure(trainer, module, state, self.start_up, self.held_out, planned, trainer.current_epoch + share, ended)

    def _lacks_samples(self, trainer: Trainer, state: RunState) -> bool:
        """Whether batches of training are being copied, and these are too few on any rank to be worth measuring."""
        if state.first_batches is None:
            return False
        too_few = not self.start_up.reader.has_some(state.first_batches)
        return bool(trainer.strategy.reduce_boolean_decision(too_few, all=False))

    def _publish(self, trainer: Trainer, module: LightningModule, state: RunState) -> None:
        """Let callbacks find the values. Copied batches may differ between ranks: rank 0 speaks for all."""
        found = {"status": float(Status.OFF)}
        with contained(state, "choosing what callbacks find"):
            found = self.display.for_callbacks(state, modes(state.readers), trainer.current_epoch)
        found = trainer.strategy.broadcast(found)
        trainer.callback_metrics.update(
            {f"{state.prefix}{key}": torch.tensor(value, device=module.device) for key, value in found.items()}
        )
