"""GapEarlyStopping: Lightning's early stopping on the predicted test accuracy, wired so that it cannot be stale."""

from __future__ import annotations

from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from typing_extensions import override

from lightning_gengap.errors import ConfigurationError
from lightning_gengap.monitor.logged_keys import PREFIX
from lightning_gengap.monitor.readout import Status


class GapEarlyStopping(EarlyStopping):
    """Stop when the predicted test accuracy no longer improves, or when the predicted gap grows too large.

    It reads the value of the epoch that just ended, with or without validation, and ignores epochs in which
    `GapMonitor` abstains or only holds a value: they neither improve nor use up patience.

    Args:
        monitor: the key to watch, logged by `GapMonitor`.
        mode: `max` for accuracies, `min` for gaps.
        patience: fresh measurements without improvement before training stops.
        min_delta: the smallest change that counts as improvement, in the key's unit.
        max_gap: also stop as soon as `gengap/predicted_gap` exceeds this accuracy fraction.

    Example::

        trainer = Trainer(callbacks=[GapMonitor(), GapEarlyStopping(patience=5)])
    """

    def __init__(
        self,
        monitor: str = "gengap/predicted_test_accuracy",
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
            check_on_train_epoch_end=True,
        )
        if max_gap is not None and not 0 < max_gap <= 1:
            raise ConfigurationError(
                "max_gap", got=repr(max_gap), expected="an accuracy fraction in (0, 1]", remedy="For example 0.2."
            )
        self.max_gap = max_gap
        self.reason: str | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a Trainer without a GapMonitor before training starts."""
        super().setup(trainer, pl_module, stage)
        from lightning_gengap.monitor.gap_monitor import GapMonitor

        if stage != "fit":
            return
        monitors = [callback for callback in trainer.callbacks if isinstance(callback, GapMonitor)]  # type: ignore[attr-defined]
        predicts = any(monitor.predictor is not None for monitor in monitors)
        if not monitors or (self.max_gap is not None and not predicts):
            raise ConfigurationError(
                "GapEarlyStopping",
                got="a Trainer without GapMonitor" if not monitors else "max_gap= with GapMonitor(predictor=None)",
                expected=f"a GapMonitor that logs {self.monitor if not monitors else f'{PREFIX}predicted_gap'}",
                remedy="Use Trainer(callbacks=[GapMonitor(), GapEarlyStopping()]).",
            )

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide on this epoch's values; epochs without a fresh one are ignored."""
        family = self._family(trainer)
        status = trainer.callback_metrics.get(f"{family}status")
        if status is None or int(status) != Status.FRESH:
            return
        if self.monitor.startswith(family) and self.monitor not in trainer.callback_metrics:
            return  # `GapMonitor` logs it, but its measure has failed so far
        stopping = trainer.should_stop
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.should_stop and not stopping:
            best = float(self.best_score)
            self.reason = f"{self.monitor} did not improve on {best:.3f} for {self.wait_count} measurements"
        gap = trainer.callback_metrics.get(f"{family}predicted_gap")
        if self.max_gap is not None and gap is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            exceeded = trainer.strategy.reduce_boolean_decision(float(gap) > self.max_gap, all=False)
            if exceeded:
                trainer.should_stop = True
                self.stopped_epoch = trainer.current_epoch
                self.reason = f"predicted gap {float(gap):.3f} exceeds max_gap {self.max_gap}"

    def _family(self, trainer: Trainer) -> str:
        """The prefix of the monitor whose key is watched: a second one has its own."""
        own = f"{self.monitor.rpartition('/')[0]}/"
        return own if f"{own}status" in trainer.callback_metrics else PREFIX
