"""The conformal interval over whole groups, and how much residuals of one group have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gengap.predictors.parts import Interval
from lightning_gengap.zoo.fit.ridge import rounded
from lightning_gengap.zoo.table import Floats

LEVEL = 0.9


def interval_of(scaled: Floats, groups: NDArray[Any], offset: float, symmetric: bool) -> Interval:
    """The interval whose quantiles hold the residuals of new groups, each group weighing the same.

    The residuals are (actual minus predicted) over (predicted + offset). A symmetric interval has one quantile, of
    their sizes, instead of one at either end.
    """
    if symmetric:
        below = above = weighted_quantile(np.abs(scaled), groups, LEVEL)
    else:
        below, above = (weighted_quantile(side, groups, (1 + LEVEL) / 2) for side in (-scaled, scaled))
    return Interval(LEVEL, offset, rounded(-below), rounded(above))


def weighted_quantile(values: Floats, groups: NDArray[Any], level: float) -> float:
    """The conformal quantile of a new group: each of T groups weighs 1 / (T + 1), and one group is at infinity.

    With too few groups for the level, the largest value is returned.
    """
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    share = 1 / (counts * (len(counts) + 1))
    order = np.argsort(values)
    position = int(np.searchsorted(np.cumsum(share[inverse][order]), level))
    return float(values[order[min(position, len(order) - 1)]])


def shared_variance(values: Floats, groups: NDArray[Any]) -> float:
    """The intraclass correlation of a one-way random-effects model, in [0, 1]."""
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, values) / counts
    within = float(((values - means[inverse]) ** 2).sum() / max(len(values) - len(names), 1))
    between = float(means.var(ddof=1)) - within * float((1 / counts).mean()) if len(names) > 1 else 0.0
    return max(between, 0.0) / (max(between, 0.0) + within) if within + between > 0 else 0.0
