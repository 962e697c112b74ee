"""What of a session is logged under which keys, and drawn where a logger can show more than scalars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_gengap.measurement import Measurement
from lightning_gengap.measures import MEASURED
from lightning_gengap.monitor.charts import Panels, draw, lay_out
from lightning_gengap.monitor.logged_keys import AGES, PREDICTED, PREFIX
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.trainer_facts import find_validation_accuracy, scalar_step


@dataclass
class Display:
    """Chooses keys and talks to loggers.

    Attributes:
        verbosity: `quiet`, `normal` or `full`, as in `GapMonitor`.
        measures: names of the measures whose values are logged at every verbosity.
        predicts: whether there is a predictor.
        validation_accuracy: the logged key that `actual_gap` compares with; None for the one that looks like it.
        raises: whether a chart that fails is an error.
        sparse: names of measures that are not taken in the first epoch.
        predicts_loss: whether the predictor has a loss head.
        prefix: of every key.
    """

    verbosity: str
    measures: tuple[str, ...]
    predicts: bool
    validation_accuracy: str | None
    raises: bool
    sparse: tuple[str, ...] = ()
    predicts_loss: bool = False
    prefix: str = PREFIX
    noticed: bool = False

    def logs(self, key: str, trainer: Trainer) -> bool:
        """Whether this full key will be logged in every epoch."""
        name = key.removeprefix(self.prefix)
        if name == "actual_gap":
            return trainer.enable_validation and trainer.check_val_every_n_epoch == 1
        if name == "recalibrated_gap":
            return False  # not before a validation meets a prediction that is no abstention
        if name == "predicted_loss_gap":
            return self.predicts_loss
        if name in PREDICTED:
            return self.predicts or name in ("status", "overhead")
        if name in AGES or (name in MEASURED and MEASURED[name].measure in self.sparse):
            return False  # not before the budget has paid for the measure
        return name in ("train_accuracy", "train_loss") or (name in MEASURED and self._shows(name))

    def scalars(self, session: RunState, trainer: Trainer, validated: bool) -> dict[str, float]:
        """The epoch's values by full key, all finite; what a validation in it tells, the session learns from.

        Args:
            session: whose values are shown.
            trainer: at the end of a training epoch.
            validated: whether this epoch had a validation.
        """
        actual_gap = self._actual_gap(session, trainer) if validated else None
        if validated:
            residual = None if actual_gap is None else session.residual(actual_gap)
            session.learn(trainer.strategy.broadcast(residual))  # metrics and predictions may differ between ranks
        shown = dict(session.readout.shown) | {"overhead": session.budget.overhead}
        if actual_gap is not None:
            shown["actual_gap"] = actual_gap
        for key, value in session.values.items():
            if key in MEASURED and key not in shown and self._shows(key):
                shown[key] = value
        for measure, age in session.schedule.ages(trainer.current_epoch).items():
            shown[f"age/{measure}"] = age
        return {f"{self.prefix}{key}": value for key, value in shown.items()}

    def lay_out(self, trainer: Trainer) -> None:
        """Prepare the loggers' charts, once."""
        self._decorate(trainer, lambda logger: lay_out(logger, self.prefix))

    def draw(self, trainer: Trainer, measurement: Measurement, session: RunState) -> None:
        """Histograms and contributions, on the step axis of this epoch's scalars."""
        contributions = {} if session.prediction is None else session.prediction.contributions
        panels = Panels(measurement.figures, contributions, scalar_step(trainer), self.prefix)
        self._decorate(trainer, lambda logger: draw(logger, panels))

    def _actual_gap(self, session: RunState, trainer: Trainer) -> float | None:
        accuracy, notice = find_validation_accuracy(trainer.callback_metrics, self.validation_accuracy)
        if accuracy is not None:
            return session.readout.shown["train_accuracy"] - accuracy
        if not self.noticed:
            rank_zero_info(str(notice))
            self.noticed = True
        return None

    def _shows(self, name: str) -> bool:
        return self.verbosity == "full" or MEASURED[name].measure in self.measures

    def _decorate(self, trainer: Trainer, decorate: Callable[[Logger], None]) -> None:
        """Scalars go to every logger by `log`; decoration that fails is only said."""
        for logger in trainer.loggers if self.verbosity != "quiet" and trainer.is_global_zero else ():
            try:
                decorate(logger)
            except Exception as error:
                if self.raises:
                    raise
                rank_zero_warn(f"GapMonitor could not draw in {type(logger).__name__}: {type(error).__name__}: {error}")
