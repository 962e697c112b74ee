"""Parts of a predictor besides its features: the interval, the memoriser and the correction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_gengap.predictors.feature import Floats


@dataclass(frozen=True)
class Interval:
    """The interval's ends are gap + quantile x width, where the width is (gap + offset) x (1 + distance).

    Attributes:
        level: nominal coverage.
        below, above: quantiles of (actual - predicted) / (predicted + offset) over held-out tasks.
    """

    level: float
    offset: float
    below: float
    above: float


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

    def adds(self, gaps: Floats, accuracy: Floats, values: Floats) -> Floats:
        """What it adds to the gaps: at most zero."""
        return (1 - self.kept) * np.minimum(accuracy - gaps - np.minimum(values, accuracy), 0.0)


@dataclass(frozen=True)
class Correction:
    """What the user's own observed gaps changed: (gap + offset) is multiplied, and the interval is narrowed.

    Attributes:
        factor: 1 changes nothing. With few pairs it is shrunken towards 1.
        width: of the interval, over its width without the correction.
        pairs: the number of observed gaps.
    """

    factor: float
    width: float
    pairs: int
