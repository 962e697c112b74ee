"""Everything that lives during one training: what is watched, what it cost, what is shown, what a checkpoint keeps."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from lightning_gengap.errors import LogitsError
from lightning_gengap.measurement import Measurement, Measurer
from lightning_gengap.measures import MEASURED
from lightning_gengap.monitor.budget import Budget
from lightning_gengap.monitor.readout import Readout, Status
from lightning_gengap.monitor.schedule import Schedule
from lightning_gengap.monitor.training_loss import TrainingSpeed
from lightning_gengap.predictors.predictor import Prediction, Predictor
from lightning_gengap.predictors.recalibration import live_correction, recalibrated, scaled_residual
from lightning_gengap.samples.batches import Forward
from lightning_gengap.samples.reader import Samples


@dataclass
class RunState:
    """The state of one training under measurement; knows no Lightning.

    Attributes:
        schedule: which of the measures that no prediction needs are taken when.
        initial_state: parameters and buffers before the first step; None if unknown.
        flags: reasons for doubt that widen the interval: `augmented_probe`, `initial_weights`.
        notes: why something is absent, not yet said to the user.
        speed: the running training loss.
        once: values of the measures that are taken once per training, and `taken`, their names.
        memory: where iterative measures start the next time.
        extras: the last values of measures that no prediction needs, by measure and key.
        raises: whether one of them that fails is raised.
        wanted: the only keys that are asked for, see `Probe`; None for all.
        residuals: scaled residuals of the predictions that this run's validations could be compared with, and
            `residual_age`, the measurements since the latest.
        values: the last measured values by key.
        measured: whether a measurement has succeeded since training began.
        failures: failed measurements in a row, and `warned`, whether the user knows of them.
    """

    predictor: Predictor | None
    budget: Budget
    schedule: Schedule = field(default_factory=Schedule)
    initial_state: dict[str, Tensor] | None = None
    flags: list[str] = field(default_factory=list)
    readout: Readout = field(default_factory=Readout)
    speed: TrainingSpeed = field(default_factory=TrainingSpeed)
    once: dict[str, float] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    memory: dict[str, Tensor] = field(default_factory=dict)
    extras: dict[str, dict[str, float]] = field(default_factory=dict)
    raises: bool = False
    wanted: frozenset[str] | None = None
    residuals: list[float] = field(default_factory=list)
    residual_age: int = 0
    values: dict[str, float] = field(default_factory=dict)
    prediction: Prediction | None = None
    measurer: Measurer | None = None
    measured: bool = False
    failures: int = 0
    warned: bool = False
    notes: list[str] = field(default_factory=list)

    def watch(
        self, model: nn.Module, samples: Samples, forward: Forward | None, layers: Sequence[str] | None, seed: int
    ) -> Measurer:
        """Watch these samples from now on; the first time, show the values before any step.

        Raises:
            LayerError, LogitsError, TargetError, MeasureError: the model cannot be watched; what was watched before
                is kept.
        """
        before = self.measurer
        try:
            return self._watch(model, samples, forward, layers, seed)
        except Exception:
            self.measurer = before
            raise

    def _watch(
        self, model: nn.Module, samples: Samples, forward: Forward | None, layers: Sequence[str] | None, seed: int
    ) -> Measurer:
        said = set() if self.measurer is None else self.measurer.said
        self.measurer = Measurer.of(model, samples, forward, layers, self.initial_state, seed)
        self.measurer.once, self.measurer.taken = self.once, self.taken
        self.measurer.memory, self.measurer.said, self.measurer.raises = self.memory, said, self.raises
        self.measurer.wanted = self.wanted
        if samples.augmented and "augmented_probe" not in self.flags:
            self.flags.append("augmented_probe")
        if not self.readout.shown:
            measurement = self.measure(model, ["fit"])
            self._doubt(self.measurer, measurement.values["train_accuracy"])
            self.show(measurement, progress=None)
        elif "train_accuracy" not in self.readout.shown:  # it could not be watched before the first step
            self._doubt(self.measurer, self.measurer.initial_accuracy(model))
        return self.measurer

    def _doubt(self, measurer: Measurer, accuracy: float | None) -> None:
        """Flag initial weights that know the task, or may: the accuracy at them is None where it is unknown."""
        chance = measurer.chance()
        noise = 2 * math.sqrt(chance * (1 - chance) / len(measurer.samples))  # the first batch alone may be small
        unlearned = accuracy is not None and accuracy <= chance + 0.25 * (1 - chance) + noise
        if not unlearned and "initial_weights" not in self.flags:
            self.flags.append("initial_weights")

    def plan(self, last: bool) -> tuple[str, ...] | None:
        """The further measures of this epoch; None if the budget allows no measurement. `last`: training ends here."""
        if not self.budget.allows(0.0 if last else self.schedule.reserved(self.budget)):
            return None
        return self.schedule.choose(self.budget, first=not self.measured, last=last)

    def measure(
        self, model: nn.Module, names: Sequence[str], extras: Sequence[str] = (), optimizers: Sequence[Any] = ()
    ) -> Measurement:
        """Measure now; nothing is shown yet, because in a distributed run another rank may have failed.

        Raises:
            LogitsError: the model's outputs are no longer finite.
            MeasureError: one of `names` failed.
        """
        if self.measurer is None:
            raise RuntimeError("observe() before watch()")
        measurement = self.measurer.measure(model, names, extras, optimizers)
        self.notes += [str(note) for note in measurement.absences if note.measure not in self._optional()]
        self.notes += measurement.remarks
        if "train_loss" not in measurement.values:
            error = LogitsError(
                "model output",
                got="NaN or infinity on the monitored samples",
                expected="finite logits",
                remedy="Training seems to have diverged; lower the learning rate.",
            )
            error.may_pass = True
            raise error
        return measurement

    def account(self, measurement: Measurement, epoch: int, failed: Collection[str]) -> None:
        """Keep what further measures gave and cost; one that failed on any rank has failed here."""
        for name, seconds in measurement.seconds.items():
            self.schedule.record(name, epoch, seconds, succeeded=name not in failed)
            if name in failed:
                measurement.extras.pop(name, None)
        self.extras |= measurement.extras
        apart = sum(seconds for name, seconds in measurement.seconds.items() if self.schedule.is_dear(name))
        if apart:
            self.budget.set_apart(apart)

    def show(self, measurement: Measurement, progress: float | None) -> None:
        """Predict from what was measured now, and update what is shown: further measures show their last values."""
        values = dict(measurement.values)
        for extra in measurement.extras.values():
            values |= extra
        if progress is not None:
            values["progress"] = progress
        values |= self.speed.values()
        self.values = self._last_extras() | values
        self.prediction = None if self.predictor is None else self.predictor.predict(values, self.flags)
        head = None if self.predictor is None else self.predictor.loss_head
        self.readout.show(values, self.prediction, None if head is None else head.prior[0])
        self.residual_age += 1
        self._recalibrate()

    def residual(self, actual_gap: float) -> float | None:
        """How far an observed gap is from the prediction shown; None where that is held or an abstention."""
        if self.predictor is None or self.prediction is None or self.readout.shown["status"] != Status.FRESH:
            return None
        return scaled_residual(self.predictor, self.prediction, actual_gap)

    def learn(self, residual: float | None) -> None:
        """Correct what is shown by one more residual, of this epoch; nothing is predicted anew."""
        if residual is not None:
            self.residuals.append(residual)
            self.residual_age = 0
            self._recalibrate()

    def _recalibrate(self) -> None:
        if self.predictor is None or self.prediction is None or not self.residuals:
            return
        gap = None
        if not self.prediction.abstained:
            correction = live_correction(self.residuals, self.residual_age)
            accuracy = self.values["train_accuracy"]
            gap = recalibrated(self.predictor, self.prediction, correction, accuracy)
        self.readout.show_recalibrated(gap)

    def _optional(self) -> set[str]:
        """Measures that only the preferred predictor takes: where they are absent, the other one predicts."""
        if self.wanted is None or self.predictor is None or self.predictor.preferred is None:
            return set()
        own = {MEASURED[name].measure for name in replace(self.predictor, preferred=None).needs}
        return {MEASURED[name].measure for name in self.predictor.preferred.needs} - own

    def _last_extras(self) -> dict[str, float]:
        return {key: value for values in self.extras.values() for key, value in values.items()}

    def state(self) -> dict[str, Any]:
        """Tensors and primitives that continue this session."""
        return {
            "initial_state": self.initial_state,
            "flags": list(self.flags),
            "once": dict(self.once),
            "taken": list(self.taken),
            "memory": dict(self.memory),
            "budget": self.budget.state(),
            "readout": self.readout.state(),
            "speed": self.speed.state(),
            "measured": self.measured,
            "schedule": self.schedule.state(),
            "extras": {name: dict(values) for name, values in self.extras.items()},
            "residuals": list(self.residuals),
            "residual_age": self.residual_age,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from `state()`; what an older checkpoint does not have starts anew."""
        self.initial_state, self.measured = state["initial_state"], state["measured"]
        self.flags, self.once, self.taken = list(state["flags"]), dict(state["once"]), list(state["taken"])
        self.memory = dict(state["memory"])
        self.budget = Budget(self.budget.share, **state["budget"])
        self.readout = Readout.restored(state["readout"])
        self.speed = TrainingSpeed.restored(state["speed"])
        if "schedule" in state:
            self.schedule.resume(state["schedule"])
        self.extras = {name: dict(values) for name, values in state.get("extras", {}).items()}
        self.residuals, self.residual_age = list(state.get("residuals", [])), state.get("residual_age", 0)
        self.values = self._last_extras()
