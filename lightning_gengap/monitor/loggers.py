"""Which values of a training are logged under which keys, and what is drawn besides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

from lightning_gengap.measurement import Measurement
from lightning_gengap.measures import MEASURED
from lightning_gengap.monitor.charts import Panels, draw, lay_out
from lightning_gengap.monitor.logged_keys import AGES, PREDICTED
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.schedule import Selection
from lightning_gengap.monitor.trainer_facts import scalar_step
from lightning_gengap.monitor.warning import rank_zero_warn


@dataclass(frozen=True)
class Display:
    """Chooses keys, without their prefix, and talks to loggers.

    With a budget, expensive measures are not taken in the first epoch.
    """

    selection: Selection
    verbosity: str
    budgeted: bool

    def logs(self, key: str, trainer: Trainer) -> bool:
        """Whether this key will be logged in every epoch."""
        predictor = self.selection.predictor
        if key == "actual_gap":
            return trainer.enable_validation and trainer.check_val_every_n_epoch == 1
        if key == "predicted_loss_gap":
            return predictor is not None and predictor.loss_head is not None
        if key == "recalibrated_gap" or key in AGES:
            return False  # not before a validation was compared with a prediction, or the measure was paid for
        if key in PREDICTED:
            return predictor is not None or key in ("status", "overhead")
        if key in MEASURED and self.budgeted and MEASURED[key].measure in self.selection.schedule().expensive:
            return False
        return key in ("train_accuracy", "train_loss") or self._shows(key)

    def scalars(self, state: RunState, actual_gap: float | None, epoch: int) -> dict[str, float]:
        """The values of an epoch by key, all finite."""
        shown = state.readout.shown | {"overhead": state.budget.overhead}
        if actual_gap is not None:
            shown["actual_gap"] = actual_gap
        measured = {key: value for key, value in state.values.items() if self._shows(key)}
        ages = {f"age/{measure}": age for measure, age in state.schedule.ages(epoch).items()}
        return measured | shown | ages

    def lay_out(self, trainer: Trainer, prefix: str, state: RunState) -> None:
        """Prepare the loggers' charts, once."""
        self._decorate(trainer, lambda logger: lay_out(logger, prefix), state.raises)

    def draw(self, trainer: Trainer, prefix: str, state: RunState, measurement: Measurement) -> None:
        """Histograms and contributions, on the step axis of this epoch's scalars."""
        contributions = {} if state.prediction is None else state.prediction.contributions
        panels = Panels(measurement.figures, contributions, scalar_step(trainer), prefix)
        self._decorate(trainer, lambda logger: draw(logger, panels), state.raises)

    def _shows(self, key: str) -> bool:
        if key not in MEASURED:
            return False
        return self.verbosity == "full" or MEASURED[key].measure in self.selection.named

    def _decorate(self, trainer: Trainer, decorate: Callable[[Logger], None], raises: bool) -> None:
        """Decorate every logger. A failure is only said, because the scalars reach every logger without it."""
        for logger in trainer.loggers if self.verbosity != "quiet" and trainer.is_global_zero else ():
            try:
                decorate(logger)
            except Exception as error:
                if raises:
                    raise
                rank_zero_warn(f"GapMonitor could not draw in {type(logger).__name__}: {type(error).__name__}: {error}")
