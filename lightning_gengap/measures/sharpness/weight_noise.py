"""A network under noise on its weights, on perturbed copies only; and the search for the level that costs a drop."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_gengap.network.folding import Folded
from lightning_gengap.network.probe import Probe, State

TARGET_DROP, TOLERANCE = 0.1, 0.01
HIGHEST, STEPS = 2.0, 15
FEWEST_DRAWS, MOST_DRAWS, LEAST_SPREAD = 3, 10, 0.05
FLOOR = 1e-3
Deviation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Fit:
    """Mean cross-entropy (nats) and accuracy (fraction) on the probe."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Level:
    """Where a search ended: the noise level, and the accuracy drop that it costs.

    Attributes:
        censored: whether no level that was tried costs the target: the one that does is beyond `value`.
    """

    value: float
    drop: float
    censored: bool = False

    @property
    def found(self) -> bool:
        """Whether the drop is the target within the tolerance."""
        return abs(self.drop - TARGET_DROP) <= TOLERANCE


def absolute(sigma: float) -> Deviation:
    """The same standard deviation for every parameter."""
    return lambda weight: torch.full_like(weight, sigma)


def magnitude_aware(sigma: float) -> Deviation:
    """Standard deviation sqrt(sigma^2 w^2 + e^2) with e = 0.001, so that zeros are perturbed too."""
    return lambda weight: (sigma**2 * weight.square() + FLOOR**2).sqrt()


def affine(alpha: float) -> Deviation:
    """Standard deviation alpha (10 |w| + 1)."""
    return lambda weight: alpha * (10 * weight.abs() + 1)


def proportional(rho: float) -> Deviation:
    """Standard deviation rho |w|."""
    return lambda weight: rho * weight.abs()


def draws(seed: int, count: int) -> list[int]:
    """Seeds of the noise draws, the same at every level and every measurement: common random numbers.

    They fit 32 bits, more of which the generator on the CPU ignores.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2**31, (count,), generator=generator).tolist()


def noisy(
    parameters: Mapping[str, Tensor], deviation: Deviation, seed: int, kind: Literal["normal", "uniform"] = "normal"
) -> dict[str, Tensor]:
    """Copies of the parameters plus noise, drawn on their device.

    Normal noise has the standard deviation `deviation(weight)`, uniform noise lies within `deviation(weight)`.
    """
    generators: dict[torch.device, torch.Generator] = {}
    copies = {}
    for name, weight in parameters.items():
        if weight.device not in generators:
            generators[weight.device] = torch.Generator(weight.device).manual_seed(seed)
        draw = torch.randn if kind == "normal" else torch.rand
        unit = draw(weight.shape, generator=generators[weight.device], device=weight.device, dtype=weight.dtype)
        copies[name] = weight + deviation(weight) * (unit if kind == "normal" else 2 * unit - 1)
    return copies


@torch.no_grad()
def fit_at(probe: Probe, state: State | None = None) -> Fit:
    """Loss and accuracy on the probe with `state` bound; one forward."""
    loss = correct = count = 0.0
    for batch in probe.batches:
        targets = batch.targets
        logits = probe.logits_on(batch.content, len(targets), state)
        targets = targets.to(logits.device)
        loss += float(cross_entropy(logits, targets, reduction="none").cpu().double().sum())
        correct += float((logits.argmax(1) == targets).sum())
        count += len(targets)
    return Fit(loss / count, correct / count)


def fit_under_noise(probe: Probe, network: Folded, deviation: Deviation, seeds: Sequence[int]) -> Fit:
    """Loss and accuracy averaged over noise draws; one forward each."""
    fits = [fit_at(probe, network.state | noisy(network.parameters, deviation, seed)) for seed in seeds]
    return Fit(math.fsum(fit.loss for fit in fits) / len(fits), math.fsum(fit.accuracy for fit in fits) / len(fits))


def drop_under_noise(probe: Probe, network: Folded, deviation: Deviation, accuracy: float) -> float:
    """Mean accuracy drop from `accuracy` over up to ten draws; fewer once it is clear on which side of the target.

    Clear is three standard errors beyond the tolerance, after three draws or more, with a spread of the draws of at
    least 0.05: a few draws agree by chance, above all on few samples.
    """
    drops: list[float] = []
    for seed in draws(probe.seed, MOST_DRAWS):
        drops.append(accuracy - fit_at(probe, network.state | noisy(network.parameters, deviation, seed)).accuracy)
        if len(drops) >= FEWEST_DRAWS:
            mean = math.fsum(drops) / len(drops)
            spread = max(statistics.stdev(drops), LEAST_SPREAD)
            if abs(mean - TARGET_DROP) - TOLERANCE > 3 * spread / math.sqrt(len(drops)):
                break
    return math.fsum(drops) / len(drops)


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


def largest_share(probe: Probe) -> float:
    """The accuracy of guessing the probe's most frequent class."""
    return float(probe.targets.bincount().max()) / len(probe.targets)
