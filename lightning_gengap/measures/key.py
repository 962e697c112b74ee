"""What is declared of one quantity that a measure gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Cell = Literal["yes", "nearly", "no", "open"]
YES: Cell = "yes"
NEARLY: Cell = "nearly"
NO: Cell = "no"
OPEN: Cell = "open"
CELLS: dict[Cell, str] = {
    YES: "the same value, up to rounding",
    NEARLY: "the same but for a small constant in the definition, such as a floor under the noise",
    NO: "another value",
    OPEN: "nothing is promised: a count, or what a search or an ascent ends at",
}


class Invariances(NamedTuple):
    """Whether a value stays the same under three changes of a network.

    Attributes:
        logits: they are scaled, by the last layer's weights and bias.
        relu: consecutive layers are rescaled around their ReLUs, one factor per layer, so that the network computes
            the same.
        batch_norm: the weights in front of a batch norm are rescaled, statistics included, so that it computes the
            same.
    """

    logits: Cell
    relu: Cell
    batch_norm: Cell


INVARIANT = Invariances(YES, YES, YES)
FUNCTION = Invariances(NO, YES, YES)  # what depends on the function that the network computes, and on nothing else
WEIGHTS = Invariances(NO, NO, YES)  # what depends on the weights, batch norms folded in
NOTHING = Invariances(OPEN, OPEN, OPEN)


@dataclass(frozen=True)
class Key:
    """One quantity.

    Attributes:
        unit: in words; `fraction` for shares and accuracies.
        low, high: the range, ends included.
        meaning: in words, without the unit.
        invariances: what leaves the value as it is; the tests verify it. None for facts of the training.
        kind: how it is shown. Only scalars are logged as numbers and can be features of a predictor.
        better: which values callbacks should take for the better ones; None where neither are.
        measure: the measure that yields it, as the registry fills in; empty for facts of the training.
    """

    unit: str
    low: float
    high: float
    meaning: str
    invariances: Invariances | None = None
    kind: Literal["scalar", "histogram", "spectrum"] = "scalar"
    measure: str = ""
    better: Literal["lower", "higher"] | None = None
