"""Noise on copies of a network's weights: how it is drawn, and what it does to loss and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_gengap.network.folding import FoldedNetwork
from lightning_gengap.network.probe import Probe, State
from lightning_gengap.network.rows import Rows
from lightning_gengap.samples.batches import ProbeBatch

FLOOR = 1e-3
Deviation = Callable[[Tensor], Tensor]
Kind = Literal["normal", "uniform"]


@dataclass(frozen=True)
class Fit:
    """Mean cross-entropy (nats) and accuracy (fraction) on the probe."""

    loss: float
    accuracy: float

    def rise_to(self, other: Fit, key: str) -> dict[str, float]:
        """How much the loss rises and the accuracy drops from this fit to the other, under `key` and `key_drop`."""
        return {key: other.loss - self.loss, f"{key}_drop": self.accuracy - other.accuracy}


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
    parameters: Mapping[str, Tensor], deviation: Deviation, seed: int, kind: Kind = "normal"
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


def states_under_noise(
    network: FoldedNetwork, deviation: Deviation, seeds: Iterable[int], kind: Kind = "normal"
) -> Iterator[State]:
    """The network's state with noise on all its parameters, one draw per seed."""
    return (network.state | noisy(network.parameters, deviation, seed, kind) for seed in seeds)


def losses(probe: Probe, state: State | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """For each batch, in one forward, the samples' cross-entropies and whether they are right; shapes (examples,)."""
    for batch, logits in probe.forwards(state):
        targets = batch.targets.to(logits.device)
        yield cross_entropy(logits, targets, reduction="none"), logits.argmax(1) == targets


def fit_of(batches: Iterable[tuple[Tensor, Tensor]]) -> Fit:
    """The fit that such losses make."""
    rows = Rows()
    for entropies, right in batches:
        rows.add(torch.stack([entropies.detach(), right.to(entropies)], dim=1))
    loss, accuracy = rows.on_cpu().double().mean(dim=0).tolist()
    return Fit(loss, accuracy)


def fit_at(probe: Probe, state: State | None = None) -> Fit:
    """Loss and accuracy on the probe with `state` bound; one forward."""
    loss, accuracy = probe.per_sample(_entropy_and_right, state).double().mean(dim=0).tolist()
    return Fit(loss, accuracy)


def _entropy_and_right(batch: ProbeBatch, logits: Tensor) -> Tensor:
    """Of every sample its cross-entropy and whether it is right; shape (examples, 2)."""
    targets = batch.targets.to(logits.device)
    entropies = cross_entropy(logits, targets, reduction="none")
    return torch.stack([entropies, (logits.argmax(1) == targets).to(entropies)], dim=1)


def fit_under_noise(probe: Probe, network: FoldedNetwork, deviation: Deviation, seeds: Iterable[int]) -> Fit:
    """Loss and accuracy averaged over noise draws; one forward each."""
    fits = [fit_at(probe, state) for state in states_under_noise(network, deviation, seeds)]
    return Fit(fmean(fit.loss for fit in fits), fmean(fit.accuracy for fit in fits))
