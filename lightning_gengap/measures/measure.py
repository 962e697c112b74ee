"""A row of the registry of measures, and what measures gave."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from lightning_gengap.measures.key import Key
from lightning_gengap.measures.values import Figure, Values
from lightning_gengap.network.probe import Probe


@dataclass(frozen=True)
class Measure:
    """One row of the registry: a measure, and what is declared of it.

    Attributes:
        function: from a probe to values by key. It raises `Undefined` where the measure does not exist.
        keys: what it can give, by name; figures too.
        forwards: what a first measurement costs, in forward passes over a probe of 1,024 samples. A backward pass
            through the activations alone counts as one, a full one as two. The tests count the multiplications of the
            network's layers, and allow 30 % of difference. Where `besides` names what else takes time, the cost
            contains a guess of it (docs/costs.md has timings). The forward of `fit` and the margins count only for
            themselves.
        by_default: whether `measure`, and a monitor that shows everything, take it. Others are taken by name only.
        per_training: whether it describes the task and the initial weights, so that it is taken once per training.
        drawn_by_place: whether what a sample draws (its partner, noise or sign) goes by its place in the probe. Then
            every measurement of a run draws the same, and another order of the samples is another draw.
        at_most: the upper bound of the cost where it depends on the model, as that of a search does.
        besides: what else takes time, in words.
        reads: a measure, taken once per training, whose findings it reads; "" for none. It is taken with this one.
        by_key: whether every key takes an equal part of the cost, and only those that are wanted are computed.
    """

    function: Callable[[Probe], Values]
    keys: Mapping[str, Key]
    forwards: float
    by_default: bool = False
    per_training: bool = False
    drawn_by_place: bool = False
    at_most: float | None = None
    besides: str = ""
    by_key: bool = False
    reads: str = ""

    def cost(self, wanted: Collection[str] | None) -> float:
        """Forward passes that it takes where only these keys are wanted; None for all."""
        if wanted is None or not self.by_key:
            return self.forwards
        return self.forwards * sum(key in wanted for key in self.keys) / len(self.keys)


def growing(name: str) -> str:
    """What the keys of a probe's memory begin with under which a measure keeps what it is yet to go on from.

    A measure that is taken once per training, and keeps some, is taken again as soon as there is time.
    """
    return f"growing/{name}/"


@dataclass
class Computed:
    """What some measures gave: finite numbers and figures by key, and why keys or patterns are absent, by measure."""

    values: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)


def scalar_keys(measures: Mapping[str, Measure]) -> dict[str, Key]:
    """What the measures can give as numbers, by key; each key names its measure."""
    return {
        key: replace(declared, measure=name)
        for name, row in measures.items()
        for key, declared in row.keys.items()
        if declared.kind == "scalar"
    }
