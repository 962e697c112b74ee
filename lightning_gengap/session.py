"""Everything that lives during one training: what is watched, what it cost, what is shown, what a checkpoint keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lightning_gengap.batches import Forward
from lightning_gengap.budget import Budget
from lightning_gengap.errors import LogitsError
from lightning_gengap.observer import Observation, Observer
from lightning_gengap.predictor import Prediction, Predictor
from lightning_gengap.readout import Readout
from lightning_gengap.samples import Samples
from lightning_gengap.training_speed import TrainingSpeed


@dataclass
class Session:
    """The state of one training under observation; knows no Lightning.

    Attributes:
        initial_state: parameters and buffers before the first step; None if unknown.
        flags: reasons for doubt that widen the interval: `augmented_probe`, `initial_weights`.
        notes: why something is absent, not yet said to the user.
        speed: the running training loss.
        once: values of the measures that are taken once per training, and `taken`, their names.
        memory: where iterative measures start the next time.
        values: the last measured values by key.
        measured: whether a measurement has succeeded since training began.
        failures: failed measurements in a row.
    """

    predictor: Predictor | None
    budget: Budget
    initial_state: dict[str, Tensor] | None = None
    flags: list[str] = field(default_factory=list)
    readout: Readout = field(default_factory=Readout)
    speed: TrainingSpeed = field(default_factory=TrainingSpeed)
    once: dict[str, float] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    memory: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    prediction: Prediction | None = None
    observer: Observer | None = None
    measured: bool = False
    failures: int = 0
    notes: list[str] = field(default_factory=list)

    def watch(
        self, model: nn.Module, samples: Samples, forward: Forward | None, layers: Sequence[str] | None, seed: int
    ) -> Observer:
        """Watch these samples from now on; the first time, show the values before any step.

        Raises:
            LayerError, LogitsError, TargetError: the model cannot be watched.
        """
        said = set() if self.observer is None else self.observer.said
        self.observer = Observer.of(model, samples, forward, layers, self.initial_state, seed)
        self.observer.once, self.observer.taken = self.once, self.taken
        self.observer.memory, self.observer.said = self.memory, said
        if samples.augmented and "augmented_probe" not in self.flags:
            self.flags.append("augmented_probe")
        if not self.readout.shown:
            observation = self.observe(model, ["fit"])
            chance = self.observer.chance()
            noise = 2 * math.sqrt(chance * (1 - chance) / len(samples))  # the first batch alone may be small
            if observation.values["train_accuracy"] > chance + 0.25 * (1 - chance) + noise:
                self.flags.append("initial_weights")
            self.show(observation, progress=None)
        return self.observer

    def observe(self, model: nn.Module, names: Sequence[str]) -> Observation:
        """Measure now; nothing is shown yet, because in a distributed run another rank may have failed.

        Raises:
            LogitsError: the model's outputs are no longer finite.
        """
        if self.observer is None:
            raise RuntimeError("observe() before watch()")
        observation = self.observer.observe(model, names)
        self.notes += observation.notes
        if "train_loss" not in observation.values:
            raise LogitsError(
                "model output",
                got="NaN or infinity on the monitored samples",
                expected="finite logits",
                remedy="Training seems to have diverged; lower the learning rate.",
            )
        return observation

    def show(self, observation: Observation, progress: float | None) -> None:
        """Predict from a measurement, and update what is shown."""
        values = dict(observation.values)
        if progress is not None:
            values["progress"] = progress
        speed = self.speed.value()
        if speed is not None:
            values["speed/train_loss_mean"] = speed
        self.values = values
        self.prediction = None if self.predictor is None else self.predictor.predict(values, self.flags)
        self.readout.show(values, self.prediction)

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
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.initial_state, self.measured = state["initial_state"], state["measured"]
        self.flags, self.once, self.taken = list(state["flags"]), dict(state["once"]), list(state["taken"])
        self.memory = dict(state["memory"])
        self.budget = Budget(self.budget.share, **state["budget"])
        self.readout = Readout(**state["readout"])
        self.speed = TrainingSpeed.restored(state["speed"])
