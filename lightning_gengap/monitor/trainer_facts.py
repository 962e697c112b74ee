"""Reads Lightning's internals: what cannot work, and where training stands. `readers` tells who reads our keys."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.monitor.logged_keys import PREFIX

_SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")
_VALIDATION_ACCURACY = re.compile(r"(val|valid|validation)[_/](acc|accuracy)")


def check_strategy(trainer: Trainer) -> None:
    """Refuse strategies that shard parameters, because no rank holds the weights that would be measured."""
    name = type(trainer.strategy).__name__
    if name in _SHARDED:
        raise ConfigurationError(
            "GapMonitor",
            got=f"Trainer(strategy={name})",
            expected="a single device or DDP, where every rank holds all weights",
            remedy="Remove GapMonitor, or train with strategy='ddp'.",
        )


def find_validation_accuracy(metrics: Mapping[str, Any], name: str | None) -> tuple[float | None, str | None]:
    """The validation accuracy among the logged metrics, and why there is none.

    It stands under `name`, or else under the one key that matches (val|valid|validation)(_|/)(acc|accuracy).
    """
    found = [key for key in metrics if (key == name if name else _VALIDATION_ACCURACY.fullmatch(key))]
    if len(found) == 1:
        value = float(metrics[found[0]])
        if math.isfinite(value):
            return value, None
        return None, f"{PREFIX}actual_gap is absent: the logged {found[0]} is {value}."
    wanted = repr(name) if name else "a key like val_acc or val/accuracy"
    reason = f"{len(found)} logged metrics match {wanted}" + (f" ({', '.join(found)})" if found else "")
    return None, f"{PREFIX}actual_gap is absent: {reason}. Pass GapMonitor(validation_accuracy='<the key you log>')."


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


def place_in_training(trainer: Trainer) -> Callable[[Any], Any]:
    """What brings a training batch to the device: the precision, then the module's or data module's transfer hooks."""

    def place(batch: Any) -> Any:
        batch = trainer.precision_plugin.convert_input(batch)
        batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    return place


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
