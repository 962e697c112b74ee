"""The only reader of Lightning's internals: what cannot work, who reads our keys when, and where training stands."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
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


def check_readers(trainer: Trainer, is_logged: Callable[[str], bool]) -> None:
    """Warn whoever monitors one of our keys and would not read the value of the epoch that just ended.

    A callback that would end the run, because its key is never logged or not yet, is refused. `is_logged` tells whether
    a key will be logged in every epoch.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor.startswith(PREFIX):
            _check_reader(callback, monitor, trainer, is_logged(monitor))


def _check_reader(callback: Callback, monitor: str, trainer: Trainer, logged: bool) -> None:
    subject = f"{type(callback).__name__} on {monitor}"
    if not logged:
        raise ConfigurationError(
            subject,
            got="a key that GapMonitor does not log with these arguments",
            expected=f"for example {PREFIX}predicted_test_accuracy, {PREFIX}predicted_gap or {PREFIX}train_accuracy",
            remedy="Check the spelling; predictions need a predictor, single measures need measures=[...], and those "
            "of more than five forward passes budget=None, to be there from the first epoch on; recalibrated_gap only "
            "begins once a validation could be compared with a prediction.",
        )
    if _reads_at_train_epoch_end(callback, trainer):
        return
    arguments = "check_on_train_epoch_end=True"
    if isinstance(callback, ModelCheckpoint):
        arguments = f"{'every_n_epochs=1, ' if _saves_by_step(callback) else ''}save_on_train_epoch_end=True"
    fix = f"Use {type(callback).__name__}(monitor={monitor!r}, ..., {arguments})."
    if trainer.val_check_interval != 1.0:
        raise ConfigurationError(
            subject,
            got=f"val_check_interval={trainer.val_check_interval}: it looks before the first epoch has ended",
            expected="to read the key at the end of the training epoch, when it is logged",
            remedy=fix,
        )
    when = "during training" if _saves_by_step(callback) else "right after validation"
    reads = "would read the previous epoch's value" if trainer.enable_validation else "would read no value in time"
    every = trainer.check_val_every_n_epoch
    rank_zero_warn(f"{subject} {reads}, because it looks {when} (check_val_every_n_epoch={every}). {fix}")


def ends_without_values(trainer: Trainer) -> bool:
    """Whether a callback or scheduler ends the run where one of our values is missing; status is always there."""
    readers: list[Any] = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        stops = isinstance(callback, EarlyStopping) and callback.strict
        if stops or (isinstance(callback, ModelCheckpoint) and trainer.enable_validation):
            readers.append(callback.monitor)
    readers += [config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau and config.strict]
    always = ("/status", "/overhead")
    return any(str(key).startswith(PREFIX) and not str(key).endswith(always) for key in readers)


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


def scalar_step(trainer: Trainer) -> int:
    """Where `log` puts scalars at the end of a training epoch."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped) - 1


def minimised_loss(trainer: Trainer, module: LightningModule, outputs: Any) -> Tensor | None:
    """The loss that a training step returned; None without one, or where something else may have been minimised."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if isinstance(loss, Tensor) and module.automatic_optimization:
        return loss.detach() * trainer.accumulate_grad_batches  # Lightning reports it divided
    return None


def planned_share(trainer: Trainer, epochs: int) -> float | None:
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


def _reads_at_train_epoch_end(callback: Callback, trainer: Trainer) -> bool:
    """Whether the callback looks then, by the rule of `EarlyStopping.setup` and `ModelCheckpoint`."""
    once_per_epoch = trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1
    if isinstance(callback, ModelCheckpoint):
        chosen = callback._save_on_train_epoch_end
        if _saves_by_step(callback):
            return False
        if chosen is None and trainer.check_val_every_n_epoch == 1 and not trainer.enable_validation:
            return True
    elif isinstance(callback, EarlyStopping):
        chosen = callback._check_on_train_epoch_end
    else:
        return True
    return once_per_epoch if chosen is None else bool(chosen)


def _saves_by_step(callback: Callback) -> bool:
    if not isinstance(callback, ModelCheckpoint):
        return False
    return callback._every_n_train_steps > 0 or callback._train_time_interval is not None
