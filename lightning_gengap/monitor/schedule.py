"""Which measures a monitor takes, and which optional ones in a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from statistics import median
from typing import Any

from lightning_gengap.measures import BY_DEFAULT, MEASURED, get_measure
from lightning_gengap.measures.derived import with_ingredients
from lightning_gengap.monitor.allowance import RECENT, Budget
from lightning_gengap.predictors.predictor import Predictor

EXPENSIVE = 5.0  # forward passes; a measure that declares more is expensive
MOST_FAILURES = 3  # in a row
USUAL = ("margin", "norm", "soft_rank")  # taken and logged where more than the prediction is shown


@dataclass(frozen=True)
class Selection:
    """The measures of one monitor. Those that its predictor does not need are optional.

    Attributes:
        named: measures that the user asked for by name.
        measures: the names of all measures, each once.
        needed: those that must succeed, because nothing new is shown without them.
        wanted: the only keys that are asked for, see `Probe`; None for all.
        explained: the only keys, figures among them, of which the user is told why they are absent; None for all.
            Those that the preferred predictor alone needs are not among them: the other then takes its place.
    """

    predictor: Predictor | None
    named: tuple[str, ...]
    measures: tuple[str, ...]
    needed: tuple[str, ...]
    wanted: frozenset[str] | None
    explained: frozenset[str] | None

    @classmethod
    def of(
        cls, predictor: Predictor | None, named: Sequence[str], everything: bool = False, drawn: bool = False
    ) -> Selection:
        """Choose what a predictor needs, the named measures with all their keys, and everything taken by default.

        The usual measures are among them where histograms are `drawn`.
        """
        needed = tuple(dict.fromkeys(("fit", *(() if predictor is None else predictor.measures))))
        by_default = (*BY_DEFAULT, *USUAL) if everything else USUAL if drawn else ()
        chosen = dict.fromkeys((*needed, *named, *by_default))
        measures = tuple(dict.fromkeys((*chosen, *(row.reads for row in map(get_measure, chosen) if row.reads))))
        if everything:
            return cls(predictor, tuple(named), measures, needed, None, None)
        of_named = [key for key, declared in MEASURED.items() if declared.measure in named]
        declared = {key: entry for name in measures for key, entry in get_measure(name).keys.items()}
        figures = {key for key, entry in declared.items() if entry.kind != "scalar"}
        own = () if predictor is None else replace(predictor, preferred=None).needs
        wanted = None if predictor is None else with_ingredients((*predictor.reads, *of_named))
        explained = with_ingredients((*own, *of_named)) | figures
        return cls(predictor, tuple(named), measures, needed, wanted, explained)

    def on_images(self) -> Selection:
        """What is taken where the inputs are images: what the preferred predictor needs, and not the other's."""
        if self.predictor is None or self.predictor.preferred is None:
            return self
        serving = replace(self.predictor.preferred, observed=self.predictor.observed)
        return Selection.of(serving, self.named, self.explained is None, set(USUAL) <= set(self.measures))

    def explains(self, pattern: str) -> bool:
        """Whether the user is told why the keys of this pattern are absent."""
        return self.explained is None or any(fnmatchcase(key, pattern) for key in self.explained)

    @property
    def asked(self) -> tuple[str, ...]:
        """The measures that the user asked for, by name or as everything."""
        return self.measures if self.explained is None else self.named

    def schedule(self) -> Schedule:
        """A new schedule. What is measured once per training belongs to the start."""
        rows = {name: get_measure(name) for name in self.measures}
        costs = {name: 0.0 if row.per_training else row.cost(self.wanted) for name, row in rows.items()}
        optional = {name: cost for name, cost in costs.items() if name not in self.needed}
        return Schedule(optional, sum(costs[name] for name in self.needed))

    def once(self, taken: Sequence[str]) -> tuple[list[str], list[str]]:
        """Measures that are taken once per training and are not among `taken`: the needed and the optional ones."""
        missing = [name for name in self.measures if get_measure(name).per_training and name not in taken]
        return [name for name in missing if name in self.needed], [name for name in missing if name not in self.needed]


@dataclass
class Schedule:
    """Chooses the optional measures of one measurement. It knows seconds and epochs only.

    Cheap measures ride along where the allowance of the prediction pays for them too. All others share equally what is
    left of the whole budget. Each is due once its own share has paid for it, so that the most expensive is the rarest
    and none keeps another waiting. The expected cost of a measure is the median of its last costs. Before its first
    time it follows from the forward passes that it declares, at the price of the needed ones.

    Attributes:
        forwards: the declared cost of every optional measure, in forward passes.
        needed: the declared cost of the needed measures, in forward passes.
        costs: seconds that a measure took in its last successes.
        spent: seconds spent on each measure that did not ride along, failures included.
        taken: the epoch in which a measure last gave its values.
        failures: failures in a row. A measure with `MOST_FAILURES` is switched off.
        done: what was taken that is taken once per training.
    """

    forwards: dict[str, float] = field(default_factory=dict)
    needed: float = 1.0
    costs: dict[str, list[float]] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    done: tuple[str, ...] = ()

    def is_expensive(self, name: str) -> bool:
        """Whether this optional measure never rides along."""
        return self.forwards.get(name, 0.0) > EXPENSIVE

    def may_be_taken(self, name: str) -> bool:
        """Whether this is an optional measure that is not switched off or done."""
        return name in self._active()

    def riders(self, seconds: float, usual: float) -> tuple[str, ...]:
        """The cheap measures that so many seconds pay for, where the needed ones usually take `usual`."""
        chosen = []
        for name in self._active():
            cost = self.expected(name, usual)
            if not self.is_expensive(name) and cost <= seconds:
                chosen.append(name)
                seconds -= cost
        return tuple(chosen)

    def others(self, budget: Budget, riders: Sequence[str], usual: float, last: bool) -> tuple[str, ...]:
        """The measures that the whole budget pays for, beside a measurement of `usual` seconds with these riders.

        The one that has waited longest comes first. The last epoch of a training takes all that the rest pays for.
        """
        waiting = [name for name in self._active() if name not in riders]
        waiting.sort(key=lambda name: (self.taken.get(name, -1), self.forwards[name]))
        if budget.share is None or not waiting:
            return tuple(waiting)
        left = budget.left - usual - sum(self.expected(name, usual) for name in riders)
        share_of_each = (left + sum(self.spent.get(name, 0.0) for name in waiting)) / len(waiting)
        chosen: list[str] = []
        for name in waiting:
            cost = self.expected(name, usual)
            # A second one in the same epoch must have saved twice: they alternate unless there is plenty.
            due = self.spent.get(name, 0.0) + (1 + len(chosen)) * cost <= share_of_each
            if (due or last) and cost <= left:
                chosen.append(name)
                left -= cost
        return tuple(chosen)

    def record(self, name: str, epoch: int, seconds: float, succeeded: bool, rode: bool = False) -> None:
        """Keep what an optional measure cost, and whether it gave its values."""
        if not rode:
            self.spent[name] = self.spent.get(name, 0.0) + seconds
        if succeeded:
            self.costs[name] = [*self.costs.get(name, []), seconds][-RECENT:]
            self.taken[name] = epoch
        self.failures[name] = 0 if succeeded else self.failures.get(name, 0) + 1

    def ages(self, epoch: int) -> dict[str, float]:
        """Epochs since each expensive measure gave its values. Those that never did are absent."""
        return {name: float(epoch - taken) for name, taken in self.taken.items() if self.is_expensive(name)}

    def untried(self) -> list[str]:
        """Measures that were never tried."""
        return [name for name in self._active() if not (name in self.taken or name in self.failures)]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: value for name, value in asdict(self).items() if name in ("costs", "spent", "taken")}

    def _active(self) -> list[str]:
        ended = (name for name, times in self.failures.items() if times >= MOST_FAILURES)
        over = {*ended, *self.done}
        return [name for name in self.forwards if name not in over]

    def expected(self, name: str, usual: float) -> float:
        """Seconds that a measure is expected to take, where the needed ones usually take `usual`."""
        return median(self.costs[name]) if self.costs.get(name) else usual * self.forwards[name] / self.needed
