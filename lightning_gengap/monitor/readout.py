"""What is shown: the values of now, and what callbacks find where there is none. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from lightning_gengap.measures import MEASURED
from lightning_gengap.monitor.logged_keys import AGES, PREDICTED

GAPS = tuple(f"{kind}_gap{end}" for kind in ("predicted", "estimated") for end in ("", "_lower", "_upper"))
LARGE = 1e9  # worse than any value without bound


class Status(IntEnum):
    """What the shown values are: the value of the key `status`."""

    FRESH = 0
    HELD = 1
    FAILED = 2
    ABSTAINING = 3
    OFF = 4
    NEVER = 5


@dataclass
class Readout:
    """The values of the present weights, by key without the prefix, and what is remembered of earlier ones.

    Attributes:
        status: what the values are.
        of_last: what they were when they were last measured.
        fresh: the values of the present weights; empty where these were not measured.
        extremes: the smallest and the largest value of each key so far.
        last: the last value of each key.
    """

    status: Status = Status.ABSTAINING
    of_last: Status = Status.ABSTAINING
    fresh: dict[str, float] = field(default_factory=dict)
    extremes: dict[str, tuple[float, float]] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)

    def show(self, values: Mapping[str, float], status: Status) -> None:
        """Take over the values of a measurement. Those of a prediction are among them where it is no abstention."""
        self.fresh, self.status, self.of_last = dict(values), status, status

    def add(self, key: str, value: float) -> None:
        """One more value of the present weights."""
        self.fresh[key] = value

    def hold(self, status: Status) -> None:
        """Say why nothing is of now. Where nothing is measured after an abstention, it stays one."""
        self.fresh = {}
        self.status = self.of_last if status == Status.HELD and self.of_last != Status.FRESH else status

    def remember(self, values: Mapping[str, float]) -> None:
        """Count these values among those that were measured."""
        for key, value in values.items():
            low, high = self.extremes.get(key, (value, value))
            self.extremes[key] = min(low, value), max(high, value)
        self.last |= values

    def for_callbacks(self, keys: Iterable[str], modes: Mapping[str, str]) -> dict[str, float]:
        """A finite value for each key: that of now, or one that wins nothing.

        `modes` are those of the callbacks that decide by a key, `min` or `max`. They find the end of its range, so that
        no later value loses to it either. Others find the worst value so far. A key that nobody reads, and that has no
        better direction, keeps its last value; it is absent where there is none.
        """
        self.remember(self.fresh)
        found = {key: self.fresh.get(key, self._stand_in(key, modes.get(key))) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def _stand_in(self, key: str, mode: str | None) -> float | None:
        """The worst that can be for who decides by the key, and the worst so far for others."""
        declared = (PREDICTED | AGES).get(key) or MEASURED[key]
        if key == "in_support":
            return 0.0
        better = {"min": "lower", "max": "higher"}.get(mode or "", declared.better)
        if better is None:
            return self.last.get(key)
        if mode is None and key in self.extremes:
            return self.extremes[key][better == "lower"]
        if mode is None and key in GAPS and "train_accuracy" in self.last:
            return self.last["train_accuracy"]
        bound = declared.high if better == "lower" else declared.low
        return bound if math.isfinite(bound) else math.copysign(LARGE, bound)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: nothing is of now when training goes on."""
        return {
            "status": int(self.status),
            "of_last": int(self.of_last),
            "extremes": {key: list(ends) for key, ends in self.extremes.items()},
            "last": dict(self.last),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Readout:
        """Go on from `state()`."""
        extremes = {key: (low, high) for key, (low, high) in state["extremes"].items()}
        readout = cls(Status(state["status"]), Status(state["of_last"]), {}, extremes, dict(state["last"]))
        if readout.status == Status.FRESH:
            readout.hold(Status.HELD)
        return readout
