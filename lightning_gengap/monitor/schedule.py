"""Which of the measures that no prediction needs are taken when: each dear one as often as the budget pays for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from lightning_gengap.monitor.budget import RECENT, Budget

DEAR = 5.0  # forward passes; a measure that declares more is dear
RESERVED = 0.2  # of the budget: what the others leave to dear measures even where they could use all of it
MOST_FAILURES = 3


@dataclass
class Schedule:
    """Chooses the extra measures of one epoch; knows seconds and epochs only.

    Cheap ones go with every measurement. The dear ones share equally what the others leave of the budget, and each is
    due once its share has paid for it: the dearer, the rarer, and none can keep another waiting. What a dear measure
    will cost is the median of its last costs; before its first, the forward passes it declares, at the price of those
    of the other measures.

    Attributes:
        forwards: the declared cost of every extra measure, in forward passes.
        others: the declared cost of a measurement without dear ones, in forward passes.
        costs: seconds that a dear measure took in its last successes.
        spent: seconds spent on each dear measure, failures included.
        taken: the epoch in which a measure last gave its values.
        failures: failures in a row; a measure with three is switched off.
        said: measures whose failure the user knows of.
    """

    forwards: dict[str, float] = field(default_factory=dict)
    others: float = 1.0
    costs: dict[str, list[float]] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    @property
    def dear(self) -> list[str]:
        """The dear measures that are not switched off, the one that has waited longest first."""
        waiting = [name for name in self._active() if self.is_dear(name)]
        return sorted(waiting, key=lambda name: (self.taken.get(name, -1), self.forwards[name]))

    def is_dear(self, name: str) -> bool:
        """Whether this extra measure has an account of its own."""
        return self.forwards.get(name, 0.0) > DEAR

    def reserved(self, budget: Budget) -> float:
        """Seconds of the budget that the other measures must leave: dear ones asked for are not starved."""
        if budget.share is None or not self.dear:
            return 0.0
        return max(0.0, RESERVED * budget.share * budget.trained - sum(self.spent.values()))

    def choose(self, budget: Budget, first: bool, last: bool) -> tuple[str, ...]:
        """The extra measures that go with a measurement that the budget has allowed.

        Args:
            budget: what measuring has cost so far, and may cost.
            first: nothing has been measured yet; only cheap ones are taken, because no cost is known.
            last: training ends with this epoch; all that the whole rest of the budget pays for are taken.
        """
        dear = self.dear
        cheap = tuple(name for name in self._active() if name not in dear)
        if budget.share is None:
            return (*cheap, *dear)
        if first or not dear:
            return cheap
        usual, total = median(budget.recent), budget.share * budget.trained
        left = total - budget.spent - usual
        others = min(budget.spent - sum(self.spent.values()) + usual, (1 - RESERVED) * total)
        gone = sum(seconds for name, seconds in self.spent.items() if name not in dear)
        share_of_each = (total - others - gone) / len(dear)
        chosen: list[str] = []
        for name in dear:
            cost = self._cost(name, usual)
            # A second one in the same epoch must have saved twice: they alternate unless there is plenty.
            due = self.spent.get(name, 0.0) + (1 + len(chosen)) * cost <= share_of_each
            if (due or last) and cost <= left:
                chosen.append(name)
                left -= cost
        return (*cheap, *chosen)

    def record(self, name: str, epoch: int, seconds: float, succeeded: bool) -> None:
        """Keep what taking an extra measure cost, and whether it gave its values."""
        if self.is_dear(name):
            self.spent[name] = self.spent.get(name, 0.0) + seconds
            if succeeded:
                self.costs[name] = [*self.costs.get(name, []), seconds][-RECENT:]
        if succeeded:
            self.taken[name] = epoch
        self.failures[name] = 0 if succeeded else self.failures.get(name, 0) + 1

    def ages(self, epoch: int) -> dict[str, float]:
        """Epochs since each dear measure gave its values; those that never did are absent."""
        return {name: float(epoch - taken) for name, taken in self.taken.items() if self.is_dear(name)}

    def unpaid(self) -> list[str]:
        """Dear measures that were never tried."""
        return [name for name in self.dear if name not in self.spent]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "costs": {name: list(seconds) for name, seconds in self.costs.items()},
            "spent": dict(self.spent),
            "taken": dict(self.taken),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from `state()`, also where other measures are asked for now; what was switched off is tried again."""
        self.costs = {name: list(seconds) for name, seconds in state["costs"].items()}
        self.spent, self.taken = dict(state["spent"]), dict(state["taken"])

    def _active(self) -> Iterable[str]:
        return [name for name in self.forwards if self.failures.get(name, 0) < MOST_FAILURES]

    def _cost(self, name: str, usual: float) -> float:
        """Seconds that a dear measure is expected to take, where the others usually take so many."""
        return median(self.costs[name]) if name in self.costs else usual * self.forwards[name] / self.others
