"""Measures one model again and again on the same samples. No Lightning."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gengap.errors import LogitsError, frameless, naming_memory, one_line
from lightning_gengap.measurement import Measurement
from lightning_gengap.measures import compute, get_measure
from lightning_gengap.measures.difficulty.known_task import knows
from lightning_gengap.measures.margins.fit import right
from lightning_gengap.measures.measure import growing
from lightning_gengap.network.first_forwards import FirstForwards
from lightning_gengap.network.layers import Layout
from lightning_gengap.network.logits import check_logits
from lightning_gengap.network.probe import Probe, State
from lightning_gengap.network.ranks import Ranks
from lightning_gengap.network.shared_probe import shared
from lightning_gengap.samples.batches import Forward, ProbeBatch, call_for, labels_for
from lightning_gengap.samples.reader import Samples
from lightning_gengap.undisturbed import undisturbed


@dataclass
class TrainingMemory:
    """What one training keeps between its measurements. A `Measurer` borrows it.

    Attributes:
        initial_state: parameters and buffers before the first step; None if unknown.
        per_training: values of the measures that are taken once per training.
        taken: names of those measures, once they are taken.
        warm_starts: where iterative measures start the next time.
    """

    initial_state: State | None = None
    per_training: dict[str, float] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    warm_starts: dict[str, Tensor] = field(default_factory=dict)

    def forget(self) -> None:
        """Let everything be measured anew, in place, for whoever has borrowed it. The initial weights are kept."""
        self.per_training.clear()
        self.taken.clear()
        self.warm_starts.clear()


@dataclass(frozen=True)
class Measurer:
    """Measures one model on fixed samples.

    Attributes:
        first: how the model is called, and whether its samples can be computed apart.
        classes: the number of logits.
        seed: draws the perturbations.
        weight_decay: of the training, where it is stated. None reads it from the optimizers.
        wanted: the only keys that are asked for, see `Probe`; None for all.
        raises: whether an optional measure that fails is an error.
        named: the measures that the user asked for by name.
    """

    samples: Samples
    layout: Layout
    first: FirstForwards
    classes: int
    memory: TrainingMemory
    seed: int = 0
    weight_decay: float | None = None
    wanted: frozenset[str] | None = None
    raises: bool = False
    named: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        model: nn.Module,
        samples: Samples,
        memory: TrainingMemory | None = None,
        forward: Forward | None = None,
        layers: Sequence[str] | None = None,
        *,
        seed: int = 0,
        weight_decay: float | None = None,
        wanted: frozenset[str] | None = None,
        raises: bool = False,
        named: frozenset[str] = frozenset(),
    ) -> Measurer:
        """Trace the model on its first batch, and refuse outputs that are no logits; ones that are not finite may pass.

        The arguments are the attributes. `layers` are the module names to watch; None is the automatic choice.
        """
        with naming_memory("the first forward in eval mode"), undisturbed(model):
            first = FirstForwards.of(model, samples.batches, forward)
            others = None if samples.others is None else replace(samples.others, settle=first.settled)
            samples = replace(samples, batches=first.batches, others=others)
            layout = Layout.of(model, samples.batches[0], first.forward, layers)
            classes = _count_classes(Probe(model=model, batches=samples.batches, layout=layout, forward=first.forward))
        memory = TrainingMemory() if memory is None else memory
        return cls(samples, layout, first, classes, memory, seed, weight_decay, wanted, raises, named)

    def initial_accuracy(self, model: nn.Module) -> float | None:
        """Accuracy at the weights before any step; None where they are unknown, or their logits not finite."""
        initial = self.memory.initial_state
        return None if initial is None else self.accuracy(model, initial)

    def accuracy(self, model: nn.Module, state: State | None = None) -> float | None:
        """Accuracy now, or at other weights; None where logits are not finite."""
        with undisturbed(model):
            probe = self._probe(model)
            logits = probe.all_logits(state)
        if not bool(logits.isfinite().all()):
            return None
        return int((logits.argmax(1) == probe.targets).sum()) / len(self.samples)

    def doubts_initial_weights(self, accuracy: float | None) -> bool:
        """Whether weights of this initial accuracy know the task, or may: None where it is unknown."""
        return accuracy is None or knows(accuracy, self.chance(), len(self.samples))

    def initial_logits(self, model: nn.Module) -> Tensor | None:
        """Logits of the first batch at the weights before any step; None where these are unknown or do not fit."""
        if self.memory.initial_state is None:
            return None
        first = replace(self, samples=replace(self.samples, batches=self.samples.batches[:1]))
        try:
            with undisturbed(model), torch.no_grad():
                ((_, logits),) = first._probe(model).forwards(self.memory.initial_state)
        except Exception:  # the measures that need them will say so
            return None
        return logits

    def chance(self) -> float:
        """The largest class's share of the samples."""
        return float(self._targets().bincount().max() / len(self.samples))

    def _task(self) -> dict[str, float]:
        """Numbers of classes and of samples that training draws from; `train_samples` is absent where it is unknown."""
        facts = {
            "classes": float(self.classes),
            "classes_present": float(len(self._targets().unique())),
        }
        size = self.samples.train_samples
        return facts if size is None else facts | {"train_samples": float(size)}

    def measure(
        self,
        model: nn.Module,
        names: Iterable[str],
        optional: Iterable[str] = (),
        optimizers: Sequence[Any] = (),
        samples: float = math.inf,
        ranks: Ranks | None = None,
        seconds: float = math.inf,
    ) -> Measurement:
        """Measure the model now. Measures of the task itself are taken at the first request only.

        Args:
            model: the model that was traced.
            names: measures that must succeed.
            optional: measures that may fail, also for want of memory. None is tried where logits are not finite.
            optimizers: read for the weight decay, and never changed.
            samples: at most so many are measured where that can be had, see `Samples.sizes`. Optional measures, and
                those taken once, see all of them.
            ranks: the processes that measure this model now; they share the forwards where they can.
            seconds: that measures may take for what they can also take another time. They are taken again in later
                measurements until nothing is left.
        """
        started = time.perf_counter()
        names = self._missing(names)
        once = [name for name in names if get_measure(name).per_training]
        optional = self._missing(optional)
        thinned = self.samples.thinned(samples)
        measurement = Measurement(samples=sum(len(batch.targets) for batch in thinned))
        with undisturbed(model):
            request = names, optional, len(thinned)
            probe = shared(self._probe(model, optimizers), ranks, request, self.samples.augmented)
            probe = replace(probe, until=started + seconds)
            going_on = self.growing() if seconds > 0 else ()
            began_once = time.perf_counter()
            computed_once = compute(probe, once)
            apart = time.perf_counter() - began_once
            measurement.add(computed_once)
            self._keep(once, computed_once.values)
            for name in going_on:
                self._go_on(probe, name, measurement)
            some = probe if len(thinned) == len(probe.batches) else _some(probe, thinned)
            computed = compute(some, [name for name in names if name not in once])
            measurement.add(computed)
            diverged = "fit" in names and "train_loss" not in computed.values
            if "train_loss" in computed.values:
                measurement.right = some.cached(right)
            for name in () if diverged else optional:
                self._try(probe, name, measurement)
        apart += sum(measurement.seconds.values()) + measurement.seconds_of_growing
        measurement.seconds_of_needed = time.perf_counter() - started - apart
        facts = {"probe_samples": float(measurement.samples)} | self._task()
        measurement.complete(computed.values | self.memory.per_training | facts, names)
        measurement.remarks = tuple(dict.fromkeys((*filter(None, [self.first.remark]), *probe.notes)))
        return measurement

    def growing(self) -> tuple[str, ...]:
        """The measures that were taken once and have more to take as soon as there is time."""
        kept = self.memory.warm_starts
        return tuple(name for name in self.memory.taken if any(key.startswith(growing(name)) for key in kept))

    def _go_on(self, probe: Probe, name: str, measurement: Measurement) -> None:
        """Take more of what a measure is yet to take; after a failure it stays as it is."""
        started = time.perf_counter()
        try:
            with undisturbed(probe.model):
                computed = compute(probe, [name])
        except Exception as error:
            if self.raises:
                raise
            probe.notes.append(f"{name} stays as it is: {one_line(error)}")
            for key in [key for key in self.memory.warm_starts if key.startswith(growing(name))]:
                del self.memory.warm_starts[key]
            probe.forget()
        else:
            measurement.add(computed)
            measurement.optional[name] = computed.values
            self._keep([], computed.values)
        measurement.seconds_of_growing += time.perf_counter() - started

    def _missing(self, names: Iterable[str]) -> list[str]:
        """The measures that have to be taken."""
        return [name for name in names if not (get_measure(name).per_training and name in self.memory.taken)]

    def _keep(self, names: Iterable[str], values: dict[str, float]) -> None:
        """Remember these measures and their values: they are taken once per training."""
        self.memory.taken += names
        self.memory.per_training |= values

    def _try(self, probe: Probe, name: str, measurement: Measurement) -> None:
        """Take one optional measure in a guard of its own, so that a failure leaves nothing to the next measure."""
        started = time.perf_counter()
        try:
            with undisturbed(probe.model):
                computed = compute(probe, [name])
        except Exception as error:
            if self.raises:
                raise
            measurement.failures[name] = frameless(error)
            probe.forget()
        else:
            measurement.add(computed)
            measurement.optional[name] = computed.values
            if get_measure(name).per_training:
                self._keep([name], computed.values)
        measurement.seconds[name] = time.perf_counter() - started

    def _probe(self, model: nn.Module, optimizers: Sequence[Any] = ()) -> Probe:
        return Probe(
            model=model,
            batches=self.samples.batches,
            layout=self.layout,
            forward=self.first.forward,
            inseparable=self.first.inseparable,
            train_samples=self.samples.train_samples,
            initial_state=self.memory.initial_state,
            memory=self.memory.warm_starts,
            seed=self.seed,
            ridge=self.weight_decay,
            optimizers=optimizers,
            wanted=self.wanted,
            others=self.samples.others,
            named=self.named,
        )

    def _targets(self) -> Tensor:
        return torch.cat([batch.targets for batch in self.samples.batches]).cpu()


def _some(probe: Probe, batches: tuple[ProbeBatch, ...]) -> Probe:
    """The probe of some of its batches."""
    chosen = {id(batch) for batch in batches}
    parts = zip(probe.batches, torch.arange(len(probe.targets)).split(probe.sizes), strict=True)
    return replace(probe, batches=batches, places=torch.cat([part for batch, part in parts if id(batch) in chosen]))


def _count_classes(probe: Probe) -> int:
    """The number of logits, all of which are checked; zero without samples."""
    if not probe.batches:
        return 0
    logits = probe.all_logits()
    try:
        content = probe.batches[0].content
        check_logits(logits, probe.targets, call_for(content), labels_for(content))
    except LogitsError as error:
        error.may_pass = not bool(logits.isfinite().all())
        raise
    return logits.shape[1]
