"""Lightning's early stopping on the estimated test accuracy, so that it never reads a stale value."""

from __future__ import annotations

from numbers import Real
from typing import Literal

from lightning.pytorch import LightningModule, Trainer

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.monitor.gap_monitor import monitors_of
from lightning_gengap.monitor.logged_keys import PREFIX
from lightning_gengap.monitor.namespaces import EarlyStopping
from lightning_gengap.monitor.readout import Status


class GapEarlyStopping(EarlyStopping):
    """Stop when the estimated test accuracy no longer improves, or when the estimated gap grows too large.

    The estimate is what the prediction and all evidence say together, and the prediction where there is no evidence. It
    reads the value of the epoch that just ended, with or without validation. It ignores epochs without a fresh value,
    as where `GapMonitor` abstains and has no held-out samples: they neither improve nor use up patience. It costs
    nothing.

    Args:
        monitor: the key to watch. `GapMonitor` has to log it.
        mode: `max` for accuracies, `min` for gaps.
        patience: how many fresh measurements without improvement end the training.
        min_delta: the smallest change that counts as improvement, in the key's unit.
        max_gap: stop also as soon as `gengap/estimated_gap` exceeds this accuracy fraction, in (0, 1].
        verbose: whether improvements are printed.

    Attributes:
        reason: why training was stopped, in words; None if it was not.

    Raises:
        ConfigurationError: `max_gap` is no fraction; or, before training, no `GapMonitor` logs what is watched.

    Example:
        >>> from lightning_gengap import GapEarlyStopping, GapMonitor
        >>> callbacks = [GapMonitor(), GapEarlyStopping(patience=3, max_gap=0.3)]
        >>> callbacks[1].monitor
        'gengap/estimated_test_accuracy'

        Pass them as `Trainer(callbacks=callbacks)`.
    """

    reads_fresh_values_alone = True

    def __init__(
        self,
        monitor: str = "gengap/estimated_test_accuracy",
        mode: Literal["min", "max"] = "max",
        patience: int = 5,
        min_delta: float = 0.0,
        max_gap: float | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            monitor=monitor,
            mode=mode,
            patience=patience,
            min_delta=min_delta,
            verbose=verbose,
            strict=not monitor.startswith(PREFIX),  # epochs without one of our values are ignored
            check_on_train_epoch_end=True,
        )
        if max_gap is not None and not _is_fraction(max_gap):
            raise ConfigurationError(
                "GapEarlyStopping(max_gap=)",
                got=repr(max_gap),
                expected="an accuracy fraction in (0, 1], or None",
                remedy="For example max_gap=0.2.",
            )
        self.max_gap = max_gap
        self.reason: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a Trainer without a GapMonitor before training starts."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        monitors = monitors_of(trainer)
        predicts = any(monitor.predictor is not None for monitor in monitors)
        if not monitors or (self.max_gap is not None and not predicts):
            raise ConfigurationError(
                "GapEarlyStopping",
                got="a Trainer without GapMonitor" if not monitors else "max_gap= with GapMonitor(predictor=None)",
                expected=f"a GapMonitor that logs {self.monitor if not monitors else f'{PREFIX}estimated_gap'}",
                remedy="Use Trainer(callbacks=[GapMonitor(), GapEarlyStopping()]).",
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide on the values of this epoch, if they are fresh."""
        prefix = self._prefix(trainer)
        status = trainer.callback_metrics.get(f"{prefix}status")
        if status is None:
            return
        if self.monitor.startswith(prefix):
            if not _is_fresh(trainer, self.monitor):
                return  # nothing was measured now, or nothing can be said
        elif int(status) != Status.FRESH:
            return
        stopping = trainer.should_stop
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.should_stop and not stopping:
            best = float(self.best_score)
            self.reason = f"{self.monitor} did not improve on {best:.3f} for {self.wait_count} measurements"
        gap = trainer.callback_metrics.get(f"{prefix}estimated_gap")
        known = gap is not None and _is_fresh(trainer, f"{prefix}estimated_gap")
        if self.max_gap is not None and gap is not None and known and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            exceeded = trainer.strategy.reduce_boolean_decision(float(gap) > self.max_gap, all=False)
            if exceeded:
                trainer.should_stop = True
                self.stopped_epoch = trainer.current_epoch
                self.reason = f"estimated gap {float(gap):.3f} exceeds max_gap {self.max_gap}"

    def _prefix(self, trainer: Trainer) -> str:
        """The prefix of the monitor whose key is watched: a second monitor has its own."""
        own = f"{self.monitor.rpartition('/')[0]}/"
        return own if f"{own}status" in trainer.callback_metrics else PREFIX


def _is_fresh(trainer: Trainer, key: str) -> bool:
    return any(monitor.is_fresh(key) for monitor in monitors_of(trainer))


def _is_fraction(value: object) -> bool:
    return isinstance(value, Real) and 0 < float(value) <= 1
