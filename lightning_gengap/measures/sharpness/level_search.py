"""The search for the level of a change of the weights that costs a tenth of the accuracy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.sharpness.weight_noise import Deviation, draws, fit_at, states_under_noise
from lightning_gengap.network.folding import FoldedNetwork
from lightning_gengap.network.probe import Probe

TARGET_DROP, TOLERANCE = 0.1, 0.01
HIGHEST, STEPS = 2.0, 15
FEWEST_DRAWS, MOST_DRAWS, LEAST_SPREAD = 3, 10, 0.05


@dataclass(frozen=True)
class Level:
    """Where a search ended: the level, the accuracy drop that it costs, and whether the target lies beyond it."""

    value: float
    drop: float
    censored: bool = False

    @property
    def found(self) -> bool:
        """Whether the drop is the target within the tolerance."""
        return abs(self.drop - TARGET_DROP) <= TOLERANCE

    def values(self, key: str) -> dict[str, float]:
        """Level, drop and flag under `key`, `key_drop` and `key_censored`."""
        return {key: self.value, f"{key}_drop": self.drop, f"{key}_censored": float(self.censored)}


def search(probe: Probe, key: str, accuracy: float, drop: Callable[[float], float]) -> Level:
    """The level at which the accuracy `drop` is the target, from where the last search under `key` ended.

    It is undefined where such a drop from `accuracy` would end below that of guessing the most frequent class.
    """
    constant = float(probe.targets.bincount().max()) / len(probe.targets)
    if accuracy <= constant + TARGET_DROP:
        raise Undefined("the accuracy is not a tenth above that of a constant guess yet")
    start = probe.memory.get(key)
    level = find_level(drop, None if start is None else float(start))
    probe.memory[key] = torch.tensor(level.value, dtype=torch.float64)
    return level


def find_level(drop: Callable[[float], float], start: float | None = None) -> Level:
    """The level in (0, 2] at which `drop` is 0.1 within 0.01, by bisection; the last one tried after 15.

    The first trial is `start`, or half the range. Until both sides are known the level doubles or halves, so that a
    start near the solution needs few trials. A level whose drop is beyond the tolerance has not been found: it is
    censored by the range, or the drop jumps there.
    """
    low, high = 0.0, HIGHEST
    level = Level(min(max(start or HIGHEST / 2, HIGHEST / 2**STEPS), HIGHEST), math.nan)
    for trial in range(STEPS):
        level = Level(level.value, drop(level.value))
        if level.found:
            break
        if trial == STEPS - 1:
            return Level(level.value, level.drop, censored=high == HIGHEST and level.drop < TARGET_DROP)
        if level.drop > TARGET_DROP:
            high = level.value
        else:
            low = level.value
        level = Level(min((low + high) / 2, 2 * low) if low > 0 else high / 2, math.nan)
    return level


def drop_under_noise(probe: Probe, network: FoldedNetwork, deviation: Deviation, accuracy: float) -> float:
    """Mean accuracy drop from `accuracy` over up to ten draws; fewer once it is clear on which side of the target.

    Clear is three standard errors beyond the tolerance, after three draws or more, with a spread of the draws of at
    least 0.05: a few draws agree by chance, above all on few samples.
    """
    drops: list[float] = []
    for state in states_under_noise(network, deviation, draws(probe.seed, MOST_DRAWS)):
        drops.append(accuracy - fit_at(probe, state).accuracy)
        if len(drops) >= FEWEST_DRAWS:
            mean = math.fsum(drops) / len(drops)
            spread = max(statistics.stdev(drops), LEAST_SPREAD)
            if abs(mean - TARGET_DROP) - TOLERANCE > 3 * spread / math.sqrt(len(drops)):
                break
    return math.fsum(drops) / len(drops)
