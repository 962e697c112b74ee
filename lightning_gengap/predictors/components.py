"""Components: parts of the formula beside the features. Each adds to the gap that the parts before it give.

A new one is a class here, with its row in `COMPONENTS`, and a specification that has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Component(Protocol):
    """What every component has."""

    @property
    def kind(self) -> str:
        """Its name in `COMPONENTS`, in files and among the contributions."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The measured keys that it reads; where one is missing, the predictor abstains."""

    def adds(self, gaps: Floats, accuracy: Floats, values: Mapping[str, Floats]) -> Floats:
        """What it adds to these gaps, by train accuracy and the values of its keys."""

    def described(self) -> str:
        """What it does, as the end of a sentence."""


@dataclass(frozen=True)
class Memoriser:
    """A classifier that memorises its data, as the nearest neighbour does; a network seldom does worse in tests.

    Attributes:
        name: the key of its leave-one-out accuracy. The network's train accuracy bounds this accuracy.
        kept: the share, in [0, 1], of the predicted test accuracy's distance below that bound which is kept. It is
            above zero so that models keep their order.
    """

    name: str
    kept: float
    kind: Literal["memoriser"] = "memoriser"

    def __post_init__(self) -> None:
        if not 0 <= self.kept <= 1:
            raise ValueError(f"a memoriser that keeps {self.kept}")

    @property
    def needs(self) -> tuple[str, ...]:
        """Its accuracy."""
        return (self.name,)

    def adds(self, gaps: Floats, accuracy: Floats, values: Mapping[str, Floats]) -> Floats:
        """At most zero."""
        return (1 - self.kept) * np.minimum(accuracy - gaps - np.minimum(values[self.name], accuracy), 0.0)

    def described(self) -> str:
        """How much is kept of what."""
        return (
            f"where the predicted test accuracy is below {self.name} or the train accuracy, whichever is smaller, "
            f"{self.kept:g} of the difference is kept"
        )


COMPONENTS: dict[str, Any] = {"memoriser": Memoriser}
