"""Lanczos on the Gauss-Newton curvature from random starts, until the soft rank is bracketed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gengap.derivatives.gauss_newton import Curvature
from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.linalg.lanczos import Bracket, Tridiagonal, lanczos, shrinkage
from lightning_gengap.measures.values import Spectrum

MOST_PRODUCTS = 60
TOLERANCE = 0.02  # half-width of the bracket, relative; a start's own spread is 1 to 4 %
FEW_DIRECTIONS = 100
VECTORS = 8  # that a product holds beside the basis


@dataclass(frozen=True)
class LanczosRuns:
    """What Lanczos from random starts knows of a curvature. The soft rank at every ridge is read from it."""

    runs: tuple[Tridiagonal, ...]

    def soft_rank(self, ridge: float) -> Bracket:
        """Bracket of the mean over starts of u^T K (K + ridge)^-1 u."""
        total = sum((shrinkage(run, ridge) for run in self.runs), Bracket(0.0, 0.0, 0.0))
        return total.scaled(1 / len(self.runs))

    @property
    def trace(self) -> float:
        """The mean over starts of u^T K u."""
        return sum(run.form for run in self.runs) / len(self.runs)

    def largest(self, count: int) -> list[float]:
        """The largest Ritz values in descending order; by interlacing each is at most the eigenvalue of its rank."""
        found = [run.gauss().nodes.clamp(min=0).flip(0)[:count].tolist() for run in self.runs if len(run)]
        most = max(map(len, found), default=0)
        return [max(values[rank] for values in found if len(values) > rank) for rank in range(most)]

    def density(self) -> Spectrum:
        """Eigenvalues and how many directions each stands for, by Gauss's rule."""
        rules = [run.gauss() for run in self.runs]
        nodes, weights = torch.cat([rule.nodes for rule in rules]), torch.cat([rule.weights for rule in rules])
        return Spectrum(nodes.clamp(min=0), weights / len(rules))


def estimated(curvature: Curvature, ridge: float, seed: int, most: int = MOST_PRODUCTS) -> LanczosRuns:
    """Lanczos from random signs: one run, or two and more where the soft rank is small and one start spreads too much.

    There are as many runs as `most` products in all allow, but at least two. The same seed gives the same signs at
    every measurement, so that a curve shows the model and not the start.
    """
    generator = torch.Generator().manual_seed(seed)
    runs: list[Tridiagonal] = []
    while True:
        runs.append(one_run(curvature, curvature.random_signs(generator), ridge, most))
        spectrum = LanczosRuns(tuple(runs))
        spent = sum(map(len, runs)) + len(runs[-1])
        if spectrum.soft_rank(ridge).middle >= FEW_DIRECTIONS or (len(runs) > 1 and spent > most):
            return spectrum


def one_run(curvature: Curvature, start: Tensor, ridge: float, most: int = MOST_PRODUCTS) -> Tridiagonal:
    """Lanczos until the bracket at `ridge` is narrow enough, or for `most` products.

    Raises:
        Undefined: the vectors do not fit into memory.
    """
    require_room(8 * (min(most, len(start)) + VECTORS) * len(start), f"vectors of {len(start)} samples x classes")
    return lanczos(curvature.product, start, most, lambda run: shrinkage(run, ridge).half_width <= TOLERANCE)
