"""What is measured when, and for how much: the measures of a monitor, their schedule, and the budget that pays."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from statistics import median
from typing import Any

from lightning_gengap.measures import BY_DEFAULT, MEASURED, get_measure
from lightning_gengap.measures.derived import with_ingredients
from lightning_gengap.predictors.predictor import Predictor

EXPENSIVE = 5.0  # forward passes; a measure that declares more is expensive
RESERVED = 0.2  # the share of the budget that is kept for expensive measures, even if the others could use all of it
MOST_FAILURES = 3  # in a row
RECENT = 5  # costs of which the median is expected next


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
    def of(cls, predictor: Predictor | None, named: Sequence[str], everything: bool) -> Selection:
        """Choose what a predictor needs, the named measures with all their keys, and everything taken by default."""
        needed = tuple(dict.fromkeys(("margin", "fit", *(() if predictor is None else predictor.measures))))
        measures = tuple(dict.fromkeys((*needed, *named, *(BY_DEFAULT if everything else ()))))
        for name in measures:
            get_measure(name)
        if everything:
            return cls(predictor, tuple(named), measures, needed, None, None)
        of_named = [key for key, declared in MEASURED.items() if declared.measure in named]
        declared = {key: entry for name in measures for key, entry in get_measure(name).keys.items()}
        figures = {key for key, entry in declared.items() if entry.kind != "scalar"}
        own = () if predictor is None else replace(predictor, preferred=None).needs
        wanted = None if predictor is None else with_ingredients((*predictor.needs, *of_named))
        explained = with_ingredients((*own, *of_named)) | figures
        return cls(predictor, tuple(named), measures, needed, wanted, explained)

    def explains(self, pattern: str) -> bool:
        """Whether the user is told why the keys of this pattern are absent."""
        return self.explained is None or any(fnmatchcase(key, pattern) for key in self.explained)

    def schedule(self) -> Schedule:
        """A new schedule. What is measured once per training belongs to the start, which the budget does not count."""
        costs = {name: 0.0 if get_measure(name).per_training else get_measure(name).forwards for name in self.measures}
        optional = {name: cost for name, cost in costs.items() if name not in self.needed}
        return Schedule(optional, sum(cost for name, cost in costs.items() if optional.get(name, 0.0) <= EXPENSIVE))

    def once(self, taken: Sequence[str]) -> tuple[list[str], list[str]]:
        """Measures that are taken once per training and are not among `taken`: the needed and the optional ones."""
        missing = [name for name in self.measures if get_measure(name).per_training and name not in taken]
        return [name for name in missing if name in self.needed], [name for name in missing if name not in self.needed]


@dataclass
class Budget:
    """Bounds the recurring cost of measuring over a run. It knows seconds only.

    Attributes:
        share: the largest share of the training time that may be spent; None for no bound.
        start_up: seconds of the measurement before the first step, which do not count.
        spent: seconds of all later measurements.
        trained: seconds of training outside the monitor.
        recent: seconds of the last measurements, without their expensive measures.
    """

    share: float | None
    start_up: float = 0.0
    spent: float = 0.0
    trained: float = 0.0
    recent: list[float] = field(default_factory=list)

    def allows(self, reserved: float = 0.0) -> bool:
        """Whether one more measurement, at the cost of the recent ones, keeps the share and leaves `reserved` seconds.

        The first is always allowed: its cost is unknown, and monitored keys need a value. Where it takes more than the
        share, `overhead` shows it until training has gone on for long enough.
        """
        if self.share is None or not self.recent:
            return True
        return self.spent + median(self.recent) + reserved <= self.share * self.trained

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Record the time that the block takes, also if it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.record(time.perf_counter() - started)

    def record(self, seconds: float) -> None:
        """Add a measurement."""
        self.spent += seconds
        self.recent = [*self.recent, seconds][-RECENT:]

    def set_apart(self, seconds: float) -> None:
        """Do not expect these seconds of the last measurement again. They stay spent."""
        if seconds:
            self.recent[-1] -= seconds

    @property
    def overhead(self) -> float:
        """Seconds spent measuring over seconds of training without it; 0 before any training."""
        return self.spent / self.trained if self.trained > 0 else 0.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: all but the share."""
        return {name: value for name, value in asdict(self).items() if name != "share"}


@dataclass
class Schedule:
    """Chooses the optional measures of one epoch. It knows seconds and epochs only.

    Cheap measures are part of every measurement. The expensive ones share equally what the others leave of the budget.
    Each is due once its own share has paid for it, so that the most expensive is the rarest and none keeps another
    waiting. The expected cost of an expensive measure is the median of its last costs. Before its first time it follows
    from the forward passes that it declares, at the price of those of the other measures.

    Attributes:
        forwards: the declared cost of every optional measure, in forward passes.
        others: the declared cost of a measurement without expensive measures, in forward passes.
        costs: seconds that an expensive measure took in its last successes.
        spent: seconds spent on each expensive measure, failures included.
        taken: the epoch in which a measure last gave its values.
        failures: failures in a row. A measure with `MOST_FAILURES` is switched off.
    """

    forwards: dict[str, float] = field(default_factory=dict)
    others: float = 1.0
    costs: dict[str, list[float]] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def expensive(self) -> list[str]:
        """The expensive measures that are not switched off. The one that has waited longest comes first."""
        waiting = [name for name in self._active() if self.is_expensive(name)]
        return sorted(waiting, key=lambda name: (self.taken.get(name, -1), self.forwards[name]))

    def is_expensive(self, name: str) -> bool:
        """Whether this optional measure has an account of its own."""
        return self.forwards.get(name, 0.0) > EXPENSIVE

    def plan(self, budget: Budget, first: bool, last: bool) -> tuple[str, ...] | None:
        """The optional measures of this epoch; None if the budget does not allow a measurement.

        The first measurement takes cheap measures only, because no cost is known. The last epoch of a training takes
        all that the whole rest of the budget pays for.
        """
        return self.choose(budget, first, last) if budget.allows(0.0 if last else self.reserved(budget)) else None

    def reserved(self, budget: Budget) -> float:
        """Seconds that the other measures must leave to the expensive ones."""
        if budget.share is None or not self.expensive:
            return 0.0
        return max(0.0, RESERVED * budget.share * budget.trained - sum(self.spent.values()))

    def choose(self, budget: Budget, first: bool, last: bool) -> tuple[str, ...]:
        """The optional measures of a measurement that the budget has allowed; see `plan`."""
        expensive = self.expensive
        cheap = tuple(name for name in self._active() if name not in expensive)
        if budget.share is None:
            return (*cheap, *expensive)
        if first or not expensive:
            return cheap
        usual, total = median(budget.recent), budget.share * budget.trained
        left = total - budget.spent - usual
        others = min(budget.spent - sum(self.spent.values()) + usual, (1 - RESERVED) * total)
        gone = sum(seconds for name, seconds in self.spent.items() if name not in expensive)
        share_of_each = (total - others - gone) / len(expensive)
        chosen: list[str] = []
        for name in expensive:
            cost = self._cost(name, usual)
            # A second one in the same epoch must have saved twice: they alternate unless there is plenty.
            due = self.spent.get(name, 0.0) + (1 + len(chosen)) * cost <= share_of_each
            if (due or last) and cost <= left:
                chosen.append(name)
                left -= cost
        return (*cheap, *chosen)

    def record(self, name: str, epoch: int, seconds: float, succeeded: bool) -> None:
        """Keep what an optional measure cost, and whether it gave its values."""
        if self.is_expensive(name):
            self.spent[name] = self.spent.get(name, 0.0) + seconds
            if succeeded:
                self.costs[name] = [*self.costs.get(name, []), seconds][-RECENT:]
        if succeeded:
            self.taken[name] = epoch
        self.failures[name] = 0 if succeeded else self.failures.get(name, 0) + 1

    def ages(self, epoch: int) -> dict[str, float]:
        """Epochs since each expensive measure gave its values. Those that never did are absent."""
        return {name: float(epoch - taken) for name, taken in self.taken.items() if self.is_expensive(name)}

    def unpaid(self) -> list[str]:
        """Expensive measures that were never tried."""
        return [name for name in self.expensive if name not in self.spent]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: value for name, value in asdict(self).items() if name in ("costs", "spent", "taken")}

    def _active(self) -> list[str]:
        return [name for name in self.forwards if self.failures.get(name, 0) < MOST_FAILURES]

    def _cost(self, name: str, usual: float) -> float:
        """Seconds that an expensive measure is expected to take, where the others usually take `usual`."""
        return median(self.costs[name]) if name in self.costs else usual * self.forwards[name] / self.others
