"""Refuses what cannot work, and finds callbacks that would read a stale or missing value, before training starts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.keys import PREFIX

_SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")
_VALIDATION_ACCURACY = re.compile(r"(val|valid|validation)[_/](acc|accuracy)")


def check_strategy(trainer: Trainer) -> None:
    """Refuse strategies that shard parameters: no rank holds the weights that would be measured.

    Raises:
        ConfigurationError: the strategy shards parameters.
    """
    name = type(trainer.strategy).__name__
    if name in _SHARDED:
        raise ConfigurationError(
            "GapMonitor",
            got=f"Trainer(strategy={name})",
            expected="a single device or DDP, where every rank holds all weights",
            remedy="Remove GapMonitor, or train with strategy='ddp'.",
        )


def check_readers(trainer: Trainer) -> None:
    """Find callbacks on our keys that would not read the value of the epoch that just ended.

    Raises:
        ConfigurationError: a callback would look for the key before it is first logged, and end the run.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        if not (isinstance(monitor, str) and monitor.startswith(PREFIX)) or _reads_at_train_epoch_end(callback, trainer):
            continue
        argument = "save_on_train_epoch_end" if isinstance(callback, ModelCheckpoint) else "check_on_train_epoch_end"
        name = type(callback).__name__
        fix = f"Use {name}(monitor={monitor!r}, ..., {argument}=True)."
        if trainer.val_check_interval != 1.0:
            raise ConfigurationError(
                f"{name} on {monitor}",
                got=f"val_check_interval={trainer.val_check_interval}: it looks before the first epoch has ended",
                expected="to read the key at the end of the training epoch, when it is logged",
                remedy=fix,
            )
        warnings.warn(
            f"{name} on {monitor} would read the previous epoch's value, because it looks right after validation "
            f"(check_val_every_n_epoch={trainer.check_val_every_n_epoch}). {fix}",
            stacklevel=2,
        )


def find_validation_accuracy(metrics: Mapping[str, Any], name: str | None) -> tuple[float | None, str | None]:
    """The validation accuracy among the logged metrics, and why there is none.

    Args:
        metrics: logged values by key.
        name: the key to use; None for the one that matches (val|valid|validation)(_|/)(acc|accuracy).
    """
    found = [key for key in metrics if key == name] if name else [k for k in metrics if _VALIDATION_ACCURACY.fullmatch(k)]
    if len(found) == 1:
        return float(metrics[found[0]]), None
    wanted = repr(name) if name else "a key like val_acc or val/accuracy"
    reason = f"{len(found)} logged metrics match {wanted}" + (f" ({', '.join(found)})" if found else "")
    return None, f"{PREFIX}actual_gap is absent: {reason}. Pass GapMonitor(validation_accuracy='<the key you log>')."


def _reads_at_train_epoch_end(callback: Callback, trainer: Trainer) -> bool:
    """Lightning's own rule for when the callback looks; mirrors `EarlyStopping.setup` and `ModelCheckpoint`."""
    once_per_epoch = trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1
    if isinstance(callback, ModelCheckpoint):
        chosen = callback._save_on_train_epoch_end
        if chosen is None and trainer.check_val_every_n_epoch == 1 and not _validates(trainer):
            return True
    elif isinstance(callback, EarlyStopping):
        chosen = callback._check_on_train_epoch_end
    else:
        return True
    return once_per_epoch if chosen is None else bool(chosen)


def _validates(trainer: Trainer) -> bool:
    source = trainer.fit_loop.epoch_loop.val_loop._data_source
    return trainer.limit_val_batches != 0 and source.is_defined()
