"""Measures one model again and again: keeps its samples, layout, initial weights and warm starts. No Lightning."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from lightning_gengap.errors import GapError, LogitsError, MeasureError, frameless, one_line, out_of_memory
from lightning_gengap.measures import MEASURED, Computed, compute, get_measure
from lightning_gengap.measures.derived import derived
from lightning_gengap.measures.values import Figure
from lightning_gengap.network.layers import Layout
from lightning_gengap.network.logits import check_logits
from lightning_gengap.network.probe import Probe, State
from lightning_gengap.samples.batches import Forward, default_forward
from lightning_gengap.samples.reader import Samples
from lightning_gengap.undisturbed import undisturbed

Note = TypeVar("Note", "Absence", str)


class Absence(NamedTuple):
    """Why a measure gives no value.

    Attributes:
        key: what is absent: a key, or a pattern of keys that ends in `*`.
    """

    measure: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key} is absent: {self.reason}"


@dataclass(frozen=True)
class Measurement:
    """What one measurement yields.

    Attributes:
        values: floats by key, without the `gengap/` prefix; undefined ones are absent.
        extras: the same of each further measure that was taken now and succeeded.
        failures: why a further measure has none.
        seconds: what each further measure took.
        figures: histograms and spectra by key.
        absences: what has no value and why; each only the first time.
        remarks: how values came to be, where that needs saying; each only the first time.
    """

    values: dict[str, float]
    extras: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    absences: tuple[Absence, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user is told, one sentence each."""
        return (*map(str, self.absences), *self.remarks)


@dataclass
class Measurer:
    """A model's samples and what is kept between its measurements.

    Attributes:
        once: values of the measures that are taken once per training, so far.
        taken: names of those measures.
        memory: warm starts; said: notes already passed on.
        raises: whether a further measure that fails is raised.
        ridge: the weight decay, where it is stated and not read from the optimizers.
        wanted: the only keys that are asked for, see `Probe`; None for all.
    """

    samples: Samples
    layout: Layout
    forward: Forward
    classes: int
    initial_state: State | None = None
    seed: int = 0
    once: dict[str, float] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    memory: dict[str, Tensor] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)
    raises: bool = False
    ridge: float | None = None
    wanted: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        samples: Samples,
        forward: Forward | None = None,
        layers: Sequence[str] | None = None,
        initial_state: State | None = None,
        seed: int = 0,
    ) -> Measurer:
        """Trace the model on its first batch, and check that its outputs are logits.

        Raises:
            LayerError, LogitsError, TargetError: see `Layout.of` and `check_logits`; logits that are not finite may
                pass.
            MeasureError: memory does not suffice.
        """
        forward = forward or default_forward
        with naming_memory("the first forward in eval mode"), undisturbed(model):
            layout = Layout.of(model, samples.batches[0], forward, layers)
            probe = Probe(model=model, batches=samples.batches, layout=layout, forward=forward)
            classes = 0
            with torch.no_grad():
                for batch in samples.batches:
                    logits = probe.logits_on(batch.content, len(batch.targets))
                    try:
                        check_logits(logits, batch.targets.to(logits.device))
                    except LogitsError as error:
                        error.may_pass = not bool(logits.isfinite().all())
                        raise
                    classes = logits.shape[1]
        return cls(samples, layout, forward, classes, initial_state, seed)

    def initial_accuracy(self, model: nn.Module) -> float | None:
        """Accuracy at the weights before any step; None where they are unknown, or their logits not finite."""
        if self.initial_state is None:
            return None
        correct = total = 0
        with undisturbed(model), torch.no_grad():
            probe = Probe(model=model, batches=self.samples.batches, layout=self.layout, forward=self.forward)
            for batch in self.samples.batches:
                logits = probe.logits_on(batch.content, len(batch.targets), self.initial_state)
                if not bool(logits.isfinite().all()):
                    return None
                correct += int((logits.argmax(1) == batch.targets.to(logits.device)).sum())
                total += len(batch.targets)
        return correct / total

    def task(self) -> dict[str, float]:
        """Facts of the task: samples and classes; `train_samples` absent where unknown."""
        targets = torch.cat([batch.targets for batch in self.samples.batches])
        known_samples = self.samples.train_samples
        facts = {
            "classes": float(self.classes),
            "classes_present": float(len(targets.unique())),
            "probe_samples": float(len(targets)),
        }
        return facts if known_samples is None else facts | {"train_samples": float(known_samples)}

    def measure(
        self, model: nn.Module, names: Iterable[str], extras: Iterable[str] = (), optimizers: Sequence[Any] = ()
    ) -> Measurement:
        """Measure the model now; measures of the task itself are taken at the first request only.

        Args:
            model: the watched module.
            names: measures that must succeed.
            extras: further measures; one that fails, also for want of memory, is only listed with its cause.
            optimizers: what trains the model, for the weight decay; they are only read.

        Raises:
            MeasureError: an unknown measure, or one that must succeed and failed.
        """
        names, further = (
            list(names),
            [name for name in extras if not (get_measure(name).per_training and name in self.taken)],
        )
        repeated = [name for name in names if not get_measure(name).per_training]
        first = [name for name in names if get_measure(name).per_training and name not in self.taken]
        with undisturbed(model):
            probe = Probe(
                model=model,
                batches=self.samples.batches,
                layout=self.layout,
                forward=self.forward,
                train_samples=self.samples.train_samples,
                initial_state=self.initial_state,
                memory=self.memory,
                seed=self.seed,
                ridge=self.ridge,
                optimizers=optimizers,
                wanted=self.wanted,
            )
            computed = compute(probe, repeated)
            at_start = compute(probe, first)
            self.once |= at_start.values
            self.taken += first
            diverged = "fit" in repeated and "train_loss" not in computed.values
            taken = self._further(probe, () if diverged else further)
        values = computed.values | self.once | self.task()
        figures = computed.figures | at_start.figures | taken.figures
        absences = (*_absences(computed), *_absences(at_start), *taken.absences)
        extras = {name: found | _own_derived(name, values | found) for name, found in taken.extras.items()}
        values |= derived(values)
        return replace(
            taken,
            values=values,
            extras=extras,
            figures=figures,
            absences=self._unsaid(absences),
            remarks=self._unsaid(probe.notes),
        )

    def _further(self, probe: Probe, names: Iterable[str]) -> Measurement:
        """Take measures one by one, each in a guard of its own, so that one that fails leaves nothing to the next."""
        taken = Measurement({})
        for name in names:
            started = time.perf_counter()
            try:
                with undisturbed(probe.model):
                    computed = compute(probe, [name])
            except Exception as error:
                if self.raises:
                    raise
                taken.failures[name] = frameless(error)
                probe.forget()
            else:
                if get_measure(name).per_training:
                    self.once |= computed.values
                    self.taken.append(name)
                taken.extras[name] = computed.values
                taken.figures.update(computed.figures)
                taken = replace(taken, absences=(*taken.absences, *_absences(computed)))
            taken.seconds[name] = time.perf_counter() - started
        return taken

    def _unsaid(self, notes: Iterable[Note]) -> tuple[Note, ...]:
        """Those that were not passed on yet, each once; they are now."""
        unsaid = tuple(note for note in dict.fromkeys(notes) if str(note) not in self.said)
        self.said.update(map(str, unsaid))
        return unsaid

    def chance(self) -> float:
        """The largest class's share of the samples."""
        targets = torch.cat([batch.targets for batch in self.samples.batches])
        return float(targets.bincount().max() / len(targets))


def _absences(computed: Computed) -> list[Absence]:
    return [Absence(name, key, why) for name, absent in computed.absent.items() for key, why in absent.items()]


@contextmanager
def naming_memory(what: str) -> Iterator[None]:
    """Raise a MeasureError that names what was being done where memory does not suffice for the block."""
    try:
        yield
    except Exception as error:
        if isinstance(error, GapError) or not out_of_memory(error):
            raise
        raise MeasureError(
            what, got=one_line(error), expected="enough memory to measure", remedy="Use fewer samples."
        ) from error


def _own_derived(name: str, values: dict[str, float]) -> dict[str, float]:
    """The derived values that are declared as the measure's."""
    return {key: value for key, value in derived(values).items() if MEASURED[key].measure == name}
