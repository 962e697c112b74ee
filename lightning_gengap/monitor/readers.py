"""Who reads our keys, and when: callbacks and schedulers that decide by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from lightning.pytorch import Trainer

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.measures import MEASURED
from lightning_gengap.monitor.logged_keys import PREFIX
from lightning_gengap.monitor.namespaces import Callback, is_early_stopping, is_foreign, is_model_checkpoint
from lightning_gengap.monitor.warning import rank_zero_warn

ALWAYS_OF_NOW = ("/status", "/overhead")
Moment = Literal["epoch", "validation", "step"]


@dataclass(frozen=True)
class Reader:
    """A callback or scheduler that reads one of our keys.

    Attributes:
        name: what it is.
        key: with its prefix.
        mode: `min` or `max`, which values it takes for better ones; None if unknown.
        moment: at the end of a training epoch, at the end of a validation, or after a step.
        every: so many epochs or steps.
        waits: whether it needs no measurement: it ignores what is not fresh, or reads what needs none.
    """

    name: str
    key: str
    mode: str | None
    moment: Moment
    every: int = 1
    waits: bool = False

    def reads(self, trainer: Trainer) -> bool:
        """Whether it reads at the moment that is its own, in this epoch or after this step."""
        if self.moment == "step":
            return self.every > 0 and trainer.global_step % self.every == 0
        return self.every > 0 and (trainer.current_epoch + 1) % self.every == 0


def readers_of(trainer: Trainer) -> list[Reader]:
    """All readers of our keys. Schedulers are among them once they are configured."""
    found = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        key = getattr(callback, "monitor", None)
        if isinstance(key, str) and key.startswith(PREFIX):
            moment, every = _when(callback, trainer)
            waits = bool(getattr(callback, "reads_fresh_values_alone", False)) or key.endswith(ALWAYS_OF_NOW)
            found.append(Reader(type(callback).__name__, key, _mode(callback), moment, every, waits))
    for config in trainer.lr_scheduler_configs:
        key = config.monitor
        if config.reduce_on_plateau and isinstance(key, str) and key.startswith(PREFIX):
            moment = "step" if config.interval == "step" else "epoch"
            name, mode, waits = type(config.scheduler).__name__, _mode(config.scheduler), key.endswith(ALWAYS_OF_NOW)
            found.append(Reader(name, key, mode, moment, config.frequency, waits))
    return found


def reads_now(readers: Iterable[Reader], moment: Moment, trainer: Trainer, waiting: bool = False) -> bool:
    """Whether somebody reads a key at this moment. Who waits for a fresh value counts only if `waiting` says so."""
    now = (reader for reader in readers if reader.moment == moment and (waiting or not reader.waits))
    return any(reader.reads(trainer) for reader in now)


def looks_after_steps(readers: Iterable[Reader]) -> bool:
    """Whether somebody may look after any step."""
    return any(reader.moment == "step" for reader in readers)


def measures_read(readers: Iterable[Reader]) -> tuple[str, ...]:
    """The measures of the keys, without their prefix, by which somebody decides."""
    keys = (reader.key for reader in readers if not reader.waits)
    return tuple(dict.fromkeys(MEASURED[key].measure for key in keys if key in MEASURED))


def modes(readers: Iterable[Reader]) -> dict[str, str]:
    """The mode of each key by which somebody decides, without those on which two readers differ."""
    found: dict[str, set[str]] = {}
    for reader in readers:
        if reader.mode in ("min", "max") and not reader.waits:
            found.setdefault(reader.key, set()).add(reader.mode)
    return {key: one for key, (one, *others) in found.items() if not others}


def check_readers(trainer: Trainer, is_logged: Callable[[str], bool]) -> None:
    """Refuse whoever reads a key of ours that will never be there, or looks too early: Lightning would end the run."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        key = getattr(callback, "monitor", None)
        if isinstance(key, str) and key.startswith(PREFIX):
            _check_order(callback, f"{type(callback).__name__} on {key}", trainer)
    for reader in readers_of(trainer):
        if not is_logged(reader.key):
            raise ConfigurationError(
                f"{reader.name} on {reader.key}",
                got="a key that GapMonitor does not log with these arguments",
                expected=f"for example {PREFIX}predicted_test_accuracy, {PREFIX}predicted_gap or "
                f"{PREFIX}train_accuracy",
                remedy="Check the spelling; predictions need a predictor, single measures need measures=[...], and "
                "actual_gap needs a validation.",
            )


def _check_order(callback: Callback, subject: str, trainer: Trainer) -> None:
    """Refuse a reader that the Trainer takes for a plain callback, and so runs before GapMonitor.

    The Trainer lets the stoppers and checkpoints of its own tree alone run after all other callbacks.
    """
    if not (is_early_stopping(callback) or is_model_checkpoint(callback)) or not is_foreign(callback, trainer):
        return
    later = trainer.callbacks[trainer.callbacks.index(callback) :]  # type: ignore[attr-defined]
    if any(kind.__name__ == "GapMonitor" for other in later for kind in type(other).__mro__):
        own = type(trainer).__module__.removesuffix(".trainer.trainer")
        raise ConfigurationError(
            subject,
            got=f"a class of {type(callback).__module__} in a Trainer of {own}",
            expected="one package for both, or the Trainer lets it look before GapMonitor has logged",
            remedy=f"Use from {own}.callbacks import {type(callback).__name__}.",
        )


def warn_readers(readers: Iterable[Reader], every_n_train_steps: int | None, validates: bool) -> None:
    """Warn of whoever looks where no fresh value is, with the exact fix."""
    for reader in readers:
        steps = every_n_train_steps or 0
        if reader.moment == "step" and not (steps and reader.every and reader.every % steps == 0):
            rank_zero_warn(
                f"{reader.name} on {reader.key} looks during training, where GapMonitor has no fresh value: what it "
                f"finds is no better than the worst value so far. {_fix_of_steps(reader, steps)}"
            )
        elif reader.moment == "validation" and not validates:
            argument = "save" if reader.name == "ModelCheckpoint" else "check"
            rank_zero_warn(
                f"{reader.name} on {reader.key} looks after validation, and there is none. Use "
                f"{reader.name}(monitor={reader.key!r}, ..., {argument}_on_train_epoch_end=True)."
            )


def _fix_of_steps(reader: Reader, steps: int) -> str:
    if reader.name != "ModelCheckpoint":
        return 'Let it step once per epoch: "interval": "epoch".'
    by_epoch = f"ModelCheckpoint(monitor={reader.key!r}, ..., every_n_epochs=1, save_on_train_epoch_end=True)"
    if steps:
        return f"Use ModelCheckpoint(monitor={reader.key!r}, ..., every_n_train_steps={steps}) or a multiple of it."
    if reader.every:
        return f"Use {by_epoch}, or GapMonitor(every_n_train_steps={reader.every})."
    return f"Use {by_epoch}."


def _mode(reader: Any) -> str | None:
    mode = getattr(reader, "mode", None)
    return mode if mode in ("min", "max") else None


def _when(callback: Any, trainer: Trainer) -> tuple[Moment, int]:
    """When a callback looks, by the rules of `EarlyStopping.setup` and `ModelCheckpoint`."""
    once_per_epoch = trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1
    if is_model_checkpoint(callback):
        if callback._every_n_train_steps > 0 or callback._train_time_interval is not None:
            return "step", callback._every_n_train_steps
        chosen = callback._save_on_train_epoch_end
        if chosen is None and trainer.check_val_every_n_epoch == 1 and not trainer.enable_validation:
            chosen = True
        at_epoch_end = once_per_epoch if chosen is None else bool(chosen)
        return "epoch" if at_epoch_end else "validation", callback._every_n_epochs
    if is_early_stopping(callback):
        chosen = callback._check_on_train_epoch_end
        return "epoch" if (once_per_epoch if chosen is None else bool(chosen)) else "validation", 1
    return "epoch", 1
