"""Reads Lightning's internals: what cannot work, and where training stands. `readers` tells who reads our keys."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_gengap.errors import ConfigurationError

_SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


def check_strategy(trainer: Trainer) -> None:
    """Refuse strategies that shard parameters, because no rank holds the weights that would be measured."""
    kind = type(trainer.strategy)
    if any(base.__name__ in _SHARDED for base in kind.__mro__):
        raise ConfigurationError(
            "GapMonitor",
            got=f"Trainer(strategy={kind.__name__})",
            expected="a single device or DDP, where every rank holds all weights",
            remedy="Remove GapMonitor, or train with strategy='ddp'.",
        )


def scalar_step(trainer: Trainer, after_batches: bool = True) -> int:
    """Where scalars belong on the step axis.

    `log` puts those of a whole epoch at its last batch, and the counter is then one ahead: `after_batches`. In the
    hooks of a batch, and of a validation within the epoch, the counter has not moved on yet.
    """
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped) - int(after_batches)


def weights_step(trainer: Trainer) -> int:
    """A number that is the same as long as the weights are.

    It counts optimizer steps; in manual optimization, where Lightning may not see these, the batches begun.
    """
    if trainer.lightning_module.automatic_optimization:
        return int(trainer.global_step)
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.ready)


def share_of_epoch(trainer: Trainer) -> float:
    """The share of this epoch's batches that have been taken; a guess below 1 where their number is unknown."""
    loop = trainer.fit_loop.epoch_loop
    if loop.batch_progress.is_last_batch:
        return 1.0
    ready = loop.batch_progress.current.ready
    return ready / (ready + 1 if math.isinf(trainer.num_training_batches) else max(trainer.num_training_batches, 1))


def is_last(trainer: Trainer, epochs: float) -> bool:
    """Whether training ends now, after so many epochs: as planned, or because somebody has decided so."""
    stops = trainer.should_stop and getattr(trainer.fit_loop, "_can_stop_early", True)
    return planned_share(trainer, epochs) == 1.0 or bool(stops)


def minimised_loss(trainer: Trainer, module: LightningModule, outputs: Any) -> Tensor | None:
    """The loss that a training step returned; None without one, or where something else may have been minimised."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if isinstance(loss, Tensor) and module.automatic_optimization:
        return loss.detach() * trainer.accumulate_grad_batches  # Lightning reports it divided
    return None


def planned_share(trainer: Trainer, epochs: float) -> float | None:
    """The share of the planned training that is done after `epochs` epochs; None without a plan."""
    shares = []
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        shares.append(epochs / trainer.max_epochs)
    return min(max(shares), 1.0) if shares else None  # training ends with whichever comes first


def planned_epochs(trainer: Trainer) -> float:
    """How many epochs are planned, parts of one included; infinity without a plan."""
    epochs = math.inf if trainer.max_epochs is None or trainer.max_epochs < 0 else float(trainer.max_epochs)
    if trainer.max_steps > 0:
        epochs = min(epochs, trainer.max_steps * trainer.accumulate_grad_batches / trainer.num_training_batches)
    return epochs


def batches_trained(trainer: Trainer) -> int:
    """How many batches this Trainer has trained on, those of earlier fits and of its checkpoint included."""
    return int(trainer.fit_loop.total_batch_idx) + 1


def was_reloaded(trainer: Trainer) -> bool:
    """Whether Lightning has just asked for the training loader again, at the start of an epoch."""
    every: int = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
    return every > 0 and trainer.fit_loop._last_train_dl_reload_epoch == trainer.current_epoch


def is_trial(trainer: Trainer) -> bool:
    """Whether the checkpoint now being restored is the one with which a tuner takes its trial steps back."""
    return Path(str(trainer.ckpt_path or "")).name.startswith((".lr_find_", ".scale_batch_size_"))


def place_in_training(trainer: Trainer) -> Callable[[Any], Any]:
    """What brings a training batch to the device: the precision, then the module's or data module's transfer hooks.

    The hooks run as in validation: many mix or augment `if self.trainer.training`, which no measured sample should be.
    """

    def place(batch: Any) -> Any:
        batch = trainer.precision_plugin.convert_input(batch)
        stage, trainer.validating = trainer.state.stage, True
        try:
            batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
            return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        finally:
            trainer.state.stage = stage

    return place


def move_in_training(trainer: Trainer) -> Callable[[Any], Any]:
    """What brings a batch to the device without the hooks before and after the transfer, which may mix samples."""

    def move(batch: Any) -> Any:
        batch, device = trainer.precision_plugin.convert_input(batch), trainer.strategy.root_device
        return trainer.lightning_module._call_batch_hook("transfer_batch_to_device", batch, device, 0)

    return move


@contextmanager
def current_hook_kept(module: LightningModule) -> Iterator[None]:
    """Restore Lightning's note of the running hook: a transfer hook that fails leaves it, and `log` is then refused."""
    hook = module._current_fx_name
    try:
        yield
    finally:
        module._current_fx_name = hook


def seconds_until_idle(device: torch.device) -> float:
    """Wait until the device has done what training queued. The seconds are no cost of measuring."""
    started = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def validates_in_fit(trainer: Trainer) -> bool:
    """Whether a validation is one of training, which is not that before it."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking
