"""Which values of a training are logged under which keys, and what is drawn besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

from lightning_gengap.errors import sentence
from lightning_gengap.measures import MEASURED
from lightning_gengap.monitor.charts import Panels, draw, lay_out
from lightning_gengap.monitor.logged_keys import AGES, ESTIMATED, PREDICTED
from lightning_gengap.monitor.run_state import FIT, RunState
from lightning_gengap.monitor.schedule import USUAL, Selection
from lightning_gengap.monitor.warning import rank_zero_warn

NOW = ("status", "overhead")
OF_VALIDATION = ("actual_gap", *ESTIMATED)


@dataclass(frozen=True)
class Display:
    """Chooses keys, without their prefix, and talks to loggers."""

    selection: Selection
    verbosity: str

    def logs(self, key: str, trainer: Trainer) -> bool:
        """Whether callbacks will find a value under this key from the first step on."""
        predictor = self.selection.predictor
        if key == "actual_gap":
            return trainer.enable_validation
        if key == "predicted_loss_gap":
            return predictor is not None and predictor.loss_head is not None
        if key in PREDICTED:
            return predictor is not None or key in NOW
        return key in FIT or (key not in AGES and self._shows(key))

    def for_callbacks(self, state: RunState, modes: Mapping[str, str], epoch: int) -> dict[str, float]:
        """What every callback finds, by key, all finite: `modes` has those that some callback reads."""
        predicted = () if self.selection.predictor is None else (*PREDICTED,)
        known = (*FIT, *predicted, *state.readout.last, *state.readout.fresh)
        keys = dict.fromkeys((*(key for key in known if self._offers(key, state)), *modes))
        ages = {f"age/{measure}": age for measure, age in state.schedule.ages(epoch).items()}
        return state.readout.for_callbacks(keys, modes) | self._now(state) | ages

    def for_loggers(self, state: RunState) -> dict[str, float]:
        """What is of now. No value is drawn twice."""
        new = state.readout.fresh if state.pending is not None else {}
        new = {key: value for key, value in new.items() if key in (*FIT, *PREDICTED) or self._shows(key)}
        if "actual_gap" in state.readout.fresh and state.compared:
            new |= {key: state.readout.fresh[key] for key in OF_VALIDATION if key in state.readout.fresh}
        return new | self._now(state)

    def _now(self, state: RunState) -> dict[str, float]:
        return {"status": float(state.readout.status), "overhead": state.budget.overhead}

    def _offers(self, key: str, state: RunState) -> bool:
        """Whether callbacks find this key although nobody is known to read it."""
        if key == "actual_gap":
            return key in state.readout.last or key in state.readout.fresh
        if key == "predicted_loss_gap":
            return self.selection.predictor is not None and self.selection.predictor.loss_head is not None
        return key not in NOW and (key in (*FIT, *PREDICTED) or self._shows(key))

    def log(self, trainer: Trainer, state: RunState, step: int, epoch: int) -> None:
        """Hand the values and figures of now to every logger."""
        values = {f"{state.prefix}{key}": value for key, value in self.for_loggers(state).items()}

        def send(logger: Logger) -> None:
            logger.log_metrics({**values, "epoch": float(epoch)}, step)
            logger.save()

        self._tell(trainer, send, state)
        if state.pending is not None and self.verbosity != "quiet":
            contributions = {} if state.prediction is None else state.prediction.contributions
            panels = Panels(state.pending.figures, contributions, step, state.prefix)
            self._tell(trainer, lambda logger: draw(logger, panels), state)
        state.pending, state.compared = None, False

    def lay_out(self, trainer: Trainer, state: RunState) -> None:
        """Prepare the loggers' charts, once."""
        if self.verbosity != "quiet":
            self._tell(trainer, lambda logger: lay_out(logger, state.prefix), state)

    def _shows(self, key: str) -> bool:
        if key not in MEASURED:
            return False
        usual = () if self.verbosity == "quiet" else USUAL
        return self.verbosity == "full" or MEASURED[key].measure in (*self.selection.named, *usual)

    def _tell(self, trainer: Trainer, tell: Callable[[Logger], None], state: RunState) -> None:
        """Tell every logger. A failure is only said, once, so that no logger ends the run for our sake."""
        for logger in trainer.loggers if trainer.is_global_zero else ():
            try:
                tell(logger)
            except Exception as error:
                if state.raises:
                    raise
                name = type(logger).__name__
                if state.says_first(f"failure of {name}"):
                    rank_zero_warn(
                        f"GapMonitor could not log to {name}: {sentence(error)} Training goes on, and callbacks find "
                        "all values. GapMonitor(on_error='raise') shows the traceback."
                    )
