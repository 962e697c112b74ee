"""Soft rank of the curvature: how many directions the data determine against the weight decay (Shoham 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gengap.curvature import Curvature, dual_curvature
from lightning_gengap.krylov import Bracket, Tridiagonal, lanczos, shrinkage
from lightning_gengap.probe import Probe

ASSUMED_RIDGE = 1e-3
RIDGES = {"1e-5": 1e-5, "1e-4": 1e-4, "1e-3": 1e-3, "1e-2": 1e-2, "1e-1": 1e-1}
MOST_PRODUCTS = 60
TOLERANCE = 0.02  # half-width of the bracket, relative; a probe vector's own spread is 1 to 4 %
FEW_DIRECTIONS = 100


class Ridge(NamedTuple):
    """The weight decay on the mean loss, and whether it had to be assumed."""

    value: float
    assumed: bool


@dataclass(frozen=True)
class Spectrum:
    """What Lanczos from the random starts knows of the curvature; every ridge is read from it."""

    runs: tuple[Tridiagonal, ...]

    def soft_rank(self, ridge: float) -> Bracket:
        """Bracket of the mean over starts of u^T K (K + ridge)^-1 u."""
        total = sum((shrinkage(run, ridge) for run in self.runs), Bracket(0.0, 0.0))
        return total.scaled(1 / len(self.runs))

    @property
    def trace(self) -> float:
        """The mean over starts of u^T K u."""
        return sum(run.form for run in self.runs) / len(self.runs)

    @property
    def top(self) -> float:
        """The largest Ritz value: the top eigenvalue from below."""
        return max((float(run.nodes_and_weights()[0][-1]) for run in self.runs if len(run)), default=0.0)


def soft_rank(probe: Probe) -> dict[str, float]:
    """rank_l(G) = Tr G (G + l)^-1 = sum g_i / (g_i + l) of the Gauss-Newton matrix G of the mean cross-entropy.

    Keys: `curvature/soft_rank` at the weight decay l (`curvature/lambda`; 1e-3 where it is unknown or zero, then
    `curvature/lambda_assumed` is 1); `curvature/soft_rank_lower` and `..._upper`, Gauss-Radau and Gauss, which hold
    the random start's exact form (not its spread about the trace: 1 to 4 %) and whose geometric mean is the value;
    `curvature/soft_rank_1e-5` to `..._1e-1` from the same run; `curvature/trace` (of G, by the same start) and
    `curvature/top_eigenvalue`, in nats per squared parameter; `curvature/samples`, `curvature/parameters`,
    `curvature/products` and `curvature/rung` (how products were formed, see `Curvature`).

    Unit: directions, in [0, min(parameters, samples x (classes - 1))]; over the samples it is a loss gap in nats, for
    a calibrated model. It grows with the number of samples: compare only equal `curvature/samples`, at most 512 of
    the probe. Not invariant to a scaling of the logits, nor, at fixed l, to ReLU rescaling. Cost: at most 60
    products of about four forwards over those samples; below 100 directions at least two starts, at most 120
    products. Absent, with a note, where the model cannot be differentiated twice. Reference: Shoham et al. 2025
    (arXiv 2506.17809).
    """
    curvature = probe.once(dual_curvature)
    if curvature is None:
        return {}
    ridge = ridge_of(probe)
    spectrum = estimated(curvature, ridge.value, probe.seed)
    bracket = spectrum.soft_rank(ridge.value)
    return {
        "curvature/soft_rank": bracket.middle,
        "curvature/soft_rank_lower": bracket.lower,
        "curvature/soft_rank_upper": bracket.upper,
        **{f"curvature/soft_rank_{name}": spectrum.soft_rank(value).middle for name, value in RIDGES.items()},
        "curvature/lambda": ridge.value,
        "curvature/lambda_assumed": float(ridge.assumed),
        "curvature/samples": float(len(curvature.targets)),
        "curvature/parameters": float(curvature.parameters),
        "curvature/trace": spectrum.trace,
        "curvature/top_eigenvalue": spectrum.top,
        "curvature/products": float(sum(map(len, spectrum.runs))),
        "curvature/rung": float(curvature.rung),
    }


def ridge_of(probe: Probe) -> Ridge:
    """The optimizer's weight decay as ridge on the mean loss; `ASSUMED_RIDGE` where it is unknown or zero."""
    known = probe.ridge is not None and probe.ridge > 0
    return Ridge(probe.ridge if known and probe.ridge is not None else ASSUMED_RIDGE, not known)


def estimated(curvature: Curvature, ridge: float, seed: int, most: int = MOST_PRODUCTS) -> Spectrum:
    """One Lanczos run from random signs; where the soft rank is small and one start spreads too much, two or more.

    Then there are as many as `most` products in all allow, but at least two. The same seed gives the same signs at
    every measurement, so that a curve shows the model and not the start.
    """
    generator = torch.Generator().manual_seed(seed)
    runs: list[Tridiagonal] = []
    while True:
        runs.append(one_run(curvature, curvature.random_signs(generator), ridge, most))
        spectrum = Spectrum(tuple(runs))
        spent = sum(map(len, runs)) + len(runs[-1])
        if spectrum.soft_rank(ridge).middle >= FEW_DIRECTIONS or (len(runs) > 1 and spent > most):
            return spectrum


def one_run(curvature: Curvature, start: Tensor, ridge: float, most: int = MOST_PRODUCTS) -> Tridiagonal:
    """Lanczos until the bracket at `ridge` is narrow enough, or for `most` products."""
    return lanczos(curvature.product, start, most, lambda run: shrinkage(run, ridge).half_width <= TOLERANCE)
