"""Measures one model again and again: keeps its samples, layout, initial weights and warm starts. No Lightning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lightning_gengap.batches import Forward, check_logits, default_forward
from lightning_gengap.derived import derived
from lightning_gengap.layers import Layout
from lightning_gengap.measures import compute, known
from lightning_gengap.measures.margin import margin_signature
from lightning_gengap.probe import Probe, State
from lightning_gengap.samples import Samples
from lightning_gengap.undisturbed import undisturbed


@dataclass(frozen=True)
class Observation:
    """What one measurement yields.

    Attributes:
        values: floats by key, without the `gengap/` prefix; undefined ones are absent.
        margins: signed normalized margins by layer, for histograms; shape (examples,).
        notes: why something is absent; each only the first time.
    """

    values: dict[str, float]
    margins: dict[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass
class Observer:
    """A model's samples and what is kept between its measurements.

    Attributes:
        once: values of the measures that are taken once per training, so far.
        taken: names of those measures.
        memory: warm starts; said: notes already passed on.
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

    @classmethod
    def of(
        cls,
        model: nn.Module,
        samples: Samples,
        forward: Forward | None = None,
        layers: Sequence[str] | None = None,
        initial_state: State | None = None,
        seed: int = 0,
    ) -> Observer:
        """Trace the model on its first batch, and check that its outputs are logits.

        Raises:
            LayerError, LogitsError, TargetError: see `Layout.of` and `check_logits`.
        """
        forward = forward or default_forward
        with undisturbed(model):
            layout = Layout.of(model, samples.batches[0], forward, layers)
            probe = Probe(model, samples.batches, layout, forward)
            classes = 0
            with torch.no_grad():
                for batch in samples.batches:
                    logits = probe.logits_on(batch.content, len(batch.targets))
                    check_logits(logits, batch.targets.to(logits.device))
                    classes = logits.shape[1]
        return cls(samples, layout, forward, classes, initial_state, seed)

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

    def observe(self, model: nn.Module, names: Iterable[str]) -> Observation:
        """Measure the model now; measures of the task itself are taken at the first request only.

        Raises:
            MeasureError: an unknown measure.
        """
        names = list(names)
        repeated = [name for name in names if not known(name).once]
        first = [name for name in names if known(name).once and name not in self.taken]
        with undisturbed(model):
            probe = Probe(
                model,
                self.samples.batches,
                self.layout,
                self.forward,
                self.samples.train_samples,
                self.initial_state,
                self.memory,
                self.seed,
            )
            values = compute(probe, repeated)
            if first:
                self.once |= compute(probe, first)
                self.taken += first
            margins = {}
            if "margin" in repeated:
                layers = probe.once(margin_signature).layers
                margins = {layer: metric.margins().cpu() for layer, metric in layers.items()}
        notes = tuple(note for note in dict.fromkeys(probe.notes) if note not in self.said)
        self.said.update(notes)
        values = values | self.once | self.task()
        return Observation(values | derived(values), margins, notes)

    def chance(self) -> float:
        """The largest class's share of the samples."""
        targets = torch.cat([batch.targets for batch in self.samples.batches])
        return float(targets.bincount().max() / len(targets))
