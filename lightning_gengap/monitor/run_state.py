"""The one owner of what a training knows and shows. No Lightning."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lightning_gengap.measurement import Measurement
from lightning_gengap.measurer import Measurer, TrainingMemory
from lightning_gengap.monitor.allowance import Budget
from lightning_gengap.monitor.logged_keys import PREFIX
from lightning_gengap.monitor.origin import Origin
from lightning_gengap.monitor.readout import Readout, Status
from lightning_gengap.monitor.replay import Replay
from lightning_gengap.monitor.saved_state import FORMAT, StateError, from_primitives, to_primitives
from lightning_gengap.monitor.schedule import Schedule, Selection
from lightning_gengap.monitor.training_loss import TrainingLoss
from lightning_gengap.monitor.validation_accuracy import Validation
from lightning_gengap.network.probe import State
from lightning_gengap.predictors.choice import Shown
from lightning_gengap.predictors.comparison import Standing
from lightning_gengap.predictors.given import Given
from lightning_gengap.predictors.observations import Observation
from lightning_gengap.predictors.predictor import Prediction
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.kind_of_data import Kind
from lightning_gengap.samples.trainable_indices import Trainable

NEVER = "the prediction always abstains, because {}"
FIT = ("train_accuracy", "train_loss")


@dataclass
class RunState:
    """The state of one training under measurement.

    Attributes:
        raises: whether a failure is an error.
        measurer: None before the samples are read.
        first_batches: copies of the first batches of training, where the data cannot be read otherwise.
        optional: the last values of the optional measures, by measure and key.
        flags: reasons for doubt that widen the interval: `augmented_probe`, `initial_weights`, `samples_interact`,
            `training_inputs`.
        observations: accuracies of held-out and validation samples beside the predictions of the same weights.
        standing: what is known of the last measured weights, for comparisons; None before there is a prediction.
        shown: the estimates of measured epochs.
        contradiction: evidence that lies too far from what was predicted, and how many deviations; None without any.
        given: evidence from elsewhere.
        held_out: measures on the held-out samples; None before they are read, or where they are refused.
        held_out_refused: whether they cannot be used.
        held_out_digest: of these samples and their labels; empty where they have none.
        sources: which samples the accuracies of validations are of, by their logged key.
        kind: of data, as far as the monitored samples tell.
        source: the data set that the user has named.
        scale: of the deviation of the predictor that serves.
        serving: its name.
        epochs: how many had been trained when the shown values were measured.
        absences: why keys, or patterns of keys, have no value.
        measured: whether a measurement has succeeded since training began.
        missed_start: whether nothing could be measured before the first step.
        preferred_serves: whether the preferred predictor predicts in this training; None before the first measurement.
        prefix: of all its keys.
        readers: who reads its keys, these without their prefix.
        fresh_step: when the shown values were measured, as `weights_step` counts; None where they are not of now.
        tried_step: the same of the last try.
        due_steps: how many times a number of steps has made a measurement due.
        pending: the measurement that loggers are yet to get.
        compared: whether they are yet to get an actual gap.
        validated: whether the present epoch had a validation.
        validation: what the last one had and logged.
        failures: failed measurements in a row.
        off: why the monitor is switched off for the rest of the training; None while it is on.
        untold: a failure before the first step, which is tried again after it and only then told.
        trained_on: the number of samples, where the first batches are copied because reading by index failed.
        warned: whether the user knows of the failures.
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
        drawn: the index of each monitored sample in its data set; None where it is not known.
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
        "observations",
        "standing",
        "shown",
        "measured",
        "missed_start",
        "preferred_serves",
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
    replay: Replay = field(default_factory=Replay)
    readout: Readout = field(default_factory=Readout)
    optional: dict[str, dict[str, float]] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    standing: Standing | None = None
    shown: list[Shown] = field(default_factory=list)
    contradiction: tuple[Observation, float] | None = None
    given: Given = field(default_factory=Given)
    held_out: Measurer | None = None
    held_out_refused: bool = False
    held_out_digest: str = ""
    sources: dict[str, str | None] = field(default_factory=dict)
    kind: Kind | None = None
    source: str | None = None
    scale: float = 1.0
    serving: str = ""
    epochs: float = 0.0
    values: dict[str, float] = field(default_factory=dict)
    prediction: Prediction | None = None
    absences: dict[str, str] = field(default_factory=dict)
    measured: bool = False
    missed_start: bool = False
    preferred_serves: bool | None = None
    prefix: str = PREFIX
    readers: list[Any] = field(default_factory=list)
    fresh_step: int | None = None
    tried_step: int | None = None
    due_steps: int = 0
    pending: Measurement | None = None
    compared: bool = False
    validated: bool = False
    validation: Validation = field(default_factory=Validation)
    failures: int = 0
    off: str | None = None
    untold: Exception | None = None
    trained_on: int | None = None
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
    drawn: Sequence[int] | None = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock of training. The time that the block takes is spent, but for what belongs to the start."""
        now, budget = time.perf_counter(), self.budget
        budget.train(now - self.clock)
        start_up, trained = budget.start_up, budget.trained
        try:
            yield
        finally:
            self.clock = time.perf_counter()
            budget.spend(self.clock - now - (budget.start_up - start_up) - (budget.trained - trained))

    @property
    def is_growing(self) -> bool:
        """Whether a measure that is taken once per training has more to take as soon as there is time."""
        return self.measurer is not None and bool(self.measurer.growing())

    def hold(self, status: Status) -> None:
        """Nothing is of now, for this reason."""
        self.readout.hold(status)
        self.fresh_step = None

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
            self.readout.of_last = Status.NEVER
            if self.selection.predictor is not None:
                self.notes.append(NEVER.format(reason))

    def switch_off(self, cause: str) -> None:
        """Measure no more in this training. Nothing is of now any longer."""
        self.off = self.off or cause
        self.hold(Status.OFF)
        self.untold = None
        self.let_go()

    def let_go(self) -> None:
        """Remove what a step in progress had registered, and free the samples."""
        self.training_loss.close()
        self.replay.close()
        self.measurer = self.first_batches = self.held_out = None

    def says_first(self, what: str) -> bool:
        """Whether the user was not told so yet; from now on they were."""
        is_first = what not in self.said
        self.said.add(what)
        return is_first

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
        self.values = flat(self.optional)

    def forget_measured(self) -> None:
        """Measure on other samples from now on: what was measured once, learned or held is taken anew."""
        self.memory.forget()
        self.optional, self.values, self.observations, self.standing, self.shown = {}, {}, [], None, []

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
        self.held_out, self.held_out_refused, self.sources = None, False, {}  # they may be among the new data
        self.fresh, self.began = True, batches


def flat(optional: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The values of several measures by key alone."""
    return {key: value for values in optional.values() for key, value in values.items()}
