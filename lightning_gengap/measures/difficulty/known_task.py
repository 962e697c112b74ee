"""Whether weights know a task before they are trained on it."""

from __future__ import annotations

import math


def knows(accuracy: float, chance: float, samples: int) -> bool:
    """Whether weights of this accuracy know the labels: they get a quarter right of what chance gets wrong, or more.

    Args:
        accuracy: of the weights.
        chance: the largest class's share of the samples.
        samples: how many there are; the first batch alone may be small.
    """
    noise = 2 * math.sqrt(chance * (1 - chance) / samples)
    return accuracy > chance + 0.25 * (1 - chance) + noise
