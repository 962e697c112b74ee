"""The one owner of what a training knows and shows. No Lightning."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from lightning_gengap.errors import LogitsError
from lightning_gengap.measurement import Measurement, Measurer, TrainingMemory
from lightning_gengap.monitor.origin import Origin
from lightning_gengap.monitor.readout import Readout, Status
from lightning_gengap.monitor.saved_state import FORMAT, StateError, from_primitives, to_primitives
from lightning_gengap.monitor.schedule import Budget, Schedule, Selection
from lightning_gengap.monitor.training_loss import TrainingLoss
from lightning_gengap.network.probe import State
from lightning_gengap.predictors.predictor import Prediction
from lightning_gengap.predictors.recalibration import live_correction, recalibrated, scaled_residual
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.trainable_indices import Trainable


@dataclass
class RunState:
    """The state of one training under measurement.

    Attributes:
        raises: whether a failure is an error.
        measurer: None before the samples are read.
        first_batches: copies of the first batches of training, where the data cannot be read otherwise.
        optional: the last values of the optional measures, by measure and key.
        flags: reasons for doubt that widen the interval: `augmented_probe`, `initial_weights`.
        residuals: scaled residuals of the predictions that could be compared with a validation.
        residual_age: measurements since the latest of them.
        measured: whether a measurement has succeeded since training began.
        validated: whether the present epoch had a validation.
        failures: failed measurements in a row.
        warned: whether the user knows of them.
        said: what the user was told once.
        never_because: why the prediction abstains for good; empty while it may yet be made.
        notes: what the user is yet to be told.
        clock: when training last went on, in seconds.
        origin: what the values belong to; None before the samples are read.
        began: batches that the Trainer had trained on before the first of these samples.
        read_in: the epoch in which they were read.
        past: the attributes of an earlier state, until the samples show whether they go on.
        unsure: whether the weights at the start may be trained ones; `spare` are those to use instead.
        fresh: whether the weights at the start had not met the samples, as far as is known.
        pool: the indices that training draws from, where the data have some.
        seen: digests of weights of this training.
    """

    # What a checkpoint keeps, and of that what belongs to the training whatever its predictor.
    KEPT: ClassVar[tuple[str, ...]] = (
        "memory",
        "training_loss",
        "budget",
        "schedule",
        "readout",
        "optional",
        "flags",
        "residuals",
        "residual_age",
        "measured",
        "origin",
        "began",
    )
    SHARED: ClassVar[tuple[str, ...]] = ("memory", "training_loss", "budget", "origin", "began")

    selection: Selection
    budget: Budget
    schedule: Schedule
    raises: bool = False
    memory: TrainingMemory = field(default_factory=TrainingMemory)
    measurer: Measurer | None = None
    first_batches: list[ProbeBatch] | None = None
    training_loss: TrainingLoss = field(default_factory=TrainingLoss)
    readout: Readout = field(default_factory=Readout)
    optional: dict[str, dict[str, float]] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    residuals: list[float] = field(default_factory=list)
    residual_age: int = 0
    values: dict[str, float] = field(default_factory=dict)
    prediction: Prediction | None = None
    measured: bool = False
    validated: bool = False
    failures: int = 0
    warned: bool = False
    said: set[str] = field(default_factory=set)
    never_because: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    clock: float = 0.0
    origin: Origin | None = None
    began: int = 0
    read_in: int | None = None
    past: dict[str, Any] = field(default_factory=dict)
    unsure: bool = False
    spare: State | None = None
    fresh: bool = True
    pool: Trainable | None = None
    seen: set[str] = field(default_factory=set)

    def doubt(self, flag: str) -> None:
        """Widen the intervals from now on."""
        if flag not in self.flags:
            self.flags.append(flag)

    def never(self, reason: str) -> None:
        """Abstain from the prediction from now on, because it can never be right. The user is told the reason once.

        `reason` is a sentence without its full stop, and says what to do.
        """
        if reason not in self.never_because:
            self.never_because.append(reason)
            self.notes.append(f"the prediction always abstains, because {reason}")

    def says_first(self, what: str) -> bool:
        """Whether the user was not told so yet; from now on they were."""
        is_first = what not in self.said
        self.said.add(what)
        return is_first

    def measure(
        self,
        measurer: Measurer,
        model: nn.Module,
        names: Iterable[str],
        optional: Iterable[str] = (),
        optimizers: Sequence[Any] = (),
    ) -> Measurement:
        """Measure now. Nothing is shown yet, because in a distributed run another rank may have failed."""
        measurement = measurer.measure(model, names, optional, optimizers)
        self.notes += [str(absence) for absence in measurement.absences if self.selection.explains(absence.key)]
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

    def take(
        self, measurement: Measurement, progress: float | None = None, epoch: int = 0, failed: Collection[str] = ()
    ) -> None:
        """Take over a measurement on which all ranks agree: its costs, its values, and what follows from them.

        `progress` is the share of the planned training that is done. The `failed` measures did so on some rank.
        """
        for name, seconds in measurement.seconds.items():
            self.schedule.record(name, epoch, seconds, succeeded=name not in failed)
        expensive = (seconds for name, seconds in measurement.seconds.items() if self.schedule.is_expensive(name))
        self.budget.set_apart(sum(expensive))
        fresh = {name: values for name, values in measurement.optional.items() if name not in failed}
        self.optional |= fresh
        values = {**measurement.values, **_flat(fresh), **self.training_loss.values()}
        if progress is not None:
            values["progress"] = progress
        self.values = _flat(self.optional) | values
        self._predict(values)

    def _predict(self, values: Mapping[str, float]) -> None:
        """Predict from values of now alone, and show it."""
        predictor = self.selection.predictor
        self.prediction = None if predictor is None else predictor.predict(values, self.flags)
        head = None if predictor is None else predictor.loss_head
        self.readout.show(values, self.prediction, None if head is None else head.prior[0])
        self.residual_age += 1
        self._recalibrate()

    def residual(self, actual_gap: float | None) -> float | None:
        """The scaled error of the shown prediction; None where that is held or an abstention."""
        predictor, fresh = self.selection.predictor, self.readout.shown.get("status") == Status.FRESH
        if predictor is None or self.prediction is None or actual_gap is None or not fresh:
            return None
        return scaled_residual(predictor, self.prediction, actual_gap)

    def learn(self, residual: float | None) -> None:
        """Recalibrate the shown prediction by its own residual. Nothing is predicted anew."""
        if residual is not None:
            self.residuals.append(residual)
            self.residual_age = 0
            self._recalibrate()

    def _recalibrate(self) -> None:
        predictor = self.selection.predictor
        if predictor is None or self.prediction is None or not self.residuals:
            return
        gap = None
        if not self.prediction.abstained:
            correction = live_correction(self.residuals, self.residual_age)
            gap = recalibrated(predictor, self.prediction, correction, self.values["train_accuracy"])
        self.readout.show_recalibrated(gap)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, in tensors and primitives. What is not taken over yet is kept as it was."""
        kept = {name: self.past.get(name, getattr(self, name)) for name in self.KEPT}
        return {"format": FORMAT, **{name: to_primitives(value) for name, value in kept.items()}}

    def prepare(self, saved: Mapping[str, Any]) -> None:
        """Build the `past` of `state()`, whole or not at all, also where other measures are asked for now.

        Raises:
            StateError: the state is damaged, or of another release.
        """
        if saved.get("format") != FORMAT:
            raise StateError(f"its format is {saved.get('format')} instead of {FORMAT}")
        missing = set(self.KEPT) - set(saved)
        shared = missing == set(self.KEPT) - set(self.SHARED)
        self.past = {name: from_primitives(self, name, saved) for name in (self.SHARED if shared else self.KEPT)}

    def resume(self) -> None:
        """Go on from the `past`, if there is one."""
        if not self.past:
            return
        for name, value in self.past.items():
            setattr(self, name, value)
        self.past = {}
        self.values = _flat(self.optional)

    def forget_measured(self) -> None:
        """Measure on other samples from now on: what was measured once, learned or held is taken anew."""
        self.memory.forget()
        self.optional, self.values, self.residuals, self.residual_age = {}, {}, [], 0

    def begin_anew(self, batches: int) -> None:
        """Other data are trained on from this batch on. The initial weights go on, and in one run what was spent.

        So does what is shown, because the callbacks of a run compare all of its epochs.
        """
        new = RunState(self.selection, self.budget, self.schedule, self.raises, self.memory, readout=self.readout)
        self.training_loss.close()
        for name in self.KEPT:
            setattr(self, name, getattr(new, name))
        self.memory.forget()
        self.values, self.prediction, self.past = {}, None, {}
        self.fresh, self.began = True, batches


def shared_part(saved: Any) -> dict[str, Any]:
    """What a monitor's saved state holds for a monitor with another predictor."""
    known = saved.items() if isinstance(saved, Mapping) else ()
    return {name: value for name, value in known if name == "format" or name in RunState.SHARED}


def _flat(optional: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {key: value for values in optional.values() for key, value in values.items()}
