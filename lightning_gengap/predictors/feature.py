"""One term of a log-linear predictor: a measured value, its transform and coefficient, and how far the zoo reached."""

from __future__ import annotations

import math
from dataclasses import dataclass

FARTHEST_TRAIN_SAMPLES = 20.0
TRANSFORMS = ("identity", "log", "logit")


@dataclass(frozen=True)
class Feature:
    """One term: coefficient x (transform(value) - centre).

    Attributes:
        name: the measured key.
        floor: smallest raw value before the log; for the logit, the distance kept from 0 and 1.
        centre, low, high, deviation: mean, range and standard deviation in the zoo, in transformed units.
    """

    name: str
    transform: str
    coefficient: float
    centre: float
    low: float
    high: float
    deviation: float
    floor: float

    def transformed(self, value: float) -> float:
        """The value on the feature's scale."""
        if self.transform == "log":
            return math.log(max(value, self.floor))
        if self.transform == "logit":
            inside = min(max(value, self.floor), 1 - self.floor)
            return math.log(inside / (1 - inside))
        return value

    def distance(self, value: float) -> float:
        """How far outside the zoo: 0 inside its range, 1 at the end of the near region, more beyond."""
        position = self.transformed(value)
        beyond = max(self.low - position, position - self.high, 0.0)
        # What is a multiple of the log of the train size goes as far beyond as that does.
        if (self.name == "train_samples" and position > self.high) or grows_with_size(self.name):
            return beyond / math.log(FARTHEST_TRAIN_SAMPLES)
        return beyond / self.deviation if self.deviation > 0 else (math.inf if beyond > 1e-9 else 0.0)


def grows_with_size(name: str) -> bool:
    """Whether a value is a multiple of the log of the train size, zero where all training sets are small.

    It says what was learnt of many samples: more of it means a smaller gap.
    """
    return name.endswith("_by_size")
