"""The budget: which share of training time measuring may take, and whether the next measurement fits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

RECENT = 5


@dataclass
class Budget:
    """Bounds the recurring cost of measuring over a run; knows seconds only.

    Attributes:
        share: the largest share of the training time that may be spent; None for no bound.
        start_up: seconds of the measurement before the first step, reported apart.
        spent: seconds of all later measurements.
        trained: seconds of training outside the monitor.
        recent: seconds of the last measurements, without their dear measures.
    """

    share: float | None
    start_up: float = 0.0
    spent: float = 0.0
    trained: float = 0.0
    recent: list[float] = field(default_factory=list)

    def allows(self, reserved: float = 0.0) -> bool:
        """Whether one more measurement, as dear as the recent ones, keeps the share and leaves the reserved seconds.

        The first is always allowed: nothing is known of its cost, and monitored keys need a value. What it takes
        beyond the share, `overhead` shows until training has gone on for long enough.
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
        """Say that so many seconds of the last measurement do not recur in each one; they stay spent."""
        self.recent[-1] -= seconds

    @property
    def overhead(self) -> float:
        """Seconds spent measuring over seconds of training without it; 0 before any training."""
        return self.spent / self.trained if self.trained > 0 else 0.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the arguments that rebuild this budget, but for its share."""
        return {
            "start_up": self.start_up,
            "spent": self.spent,
            "trained": self.trained,
            "recent": list(self.recent),
        }
