"""Soft rank of the curvature: how many directions the data determine against the weight decay (Shoham 2025)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gengap.derivatives.fallback import CurvatureInMemory, sampled, whole, with_curvature
from lightning_gengap.derivatives.gauss_newton import Curvature
from lightning_gengap.derivatives.weight_decay import ASSUMED_RIDGE, Ridge
from lightning_gengap.derivatives.weight_decay import ridge_of as ridge_of
from lightning_gengap.linalg.lanczos import Bracket, Tridiagonal, lanczos, shrinkage
from lightning_gengap.measures.values import Spectrum, Values
from lightning_gengap.network.probe import Probe

RIDGES = {"1e-5": 1e-5, "1e-4": 1e-4, "1e-3": 1e-3, "1e-2": 1e-2, "1e-1": 1e-1}
MOST_PRODUCTS = 60
TOLERANCE = 0.02  # half-width of the bracket, relative; a probe vector's own spread is 1 to 4 %
FEW_DIRECTIONS = 100
LARGEST = 3  # eigenvalues that are shown


@dataclass(frozen=True)
class LanczosRuns:
    """What Lanczos from the random starts knows of the curvature; every ridge is read from it."""

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
        """The largest Ritz values, downwards: each is at most the eigenvalue of its rank, as interlacing has it."""
        found = [run.nodes_and_weights()[0].flip(0)[:count].tolist() for run in self.runs if len(run)]
        most = max(map(len, found), default=0)
        return [max(values[rank] for values in found if len(values) > rank) for rank in range(most)]

    def density(self) -> Spectrum:
        """Eigenvalues and how many directions each stands for, by Gauss's rule."""
        parts = [run.nodes_and_weights() for run in self.runs]
        return Spectrum(torch.cat([nodes for nodes, _ in parts]), torch.cat([by for _, by in parts]) / len(self.runs))


@dataclass(frozen=True)
class SoftRank:
    """What one measurement found.

    Attributes:
        bracket: of the soft rank at the headline ridge.
        plain: the spectrum in the plain metric, from which every uniform ridge is read.
        products: with the curvature, in all.
        samples, parameters, rung: of the curvature, which is not kept: its graphs take memory.
    """

    bracket: Bracket
    plain: LanczosRuns
    products: int
    samples: int
    parameters: int
    rung: int


def soft_rank(probe: Probe) -> Values:
    """rank_R(G) = Tr G (G + R)^-1 of the Gauss-Newton matrix G of the mean cross-entropy and the weight decay R.

    Keys: `curvature/soft_rank` at R, for a uniform R = l the sum of g_i / (g_i + l); `curvature/soft_rank_lower` and
    `..._upper`, Gauss-Radau and Gauss, which hold the random start's exact form (not its spread about the trace: 1 to
    4 %); the value has the geometric mean of their odds (what they are over what they lack to the maximum). R is what
    the optimizer does, see `decay_of`: a uniform ridge, one per group, or AdamW's metric. `curvature/lambda` is R, or
    its geometric mean over the trained parameters where `curvature/lambda_varies` is 1; where it is unknown or zero it
    is 1e-3, and `curvature/lambda_assumed` is 1.

    At uniform ridges, whatever R is: `curvature/soft_rank_1e-5` to `..._1e-1`; `curvature/trace` (of G, by the same
    start); `curvature/top_eigenvalue` and `..._2` and `..._3`, from below, in nats per squared parameter. Besides
    `curvature/samples`, `curvature/parameters`, `curvature/products` and `curvature/rung` (see `Curvature`).

    Unit: directions, in [0, min(parameters, samples x (classes - 1))]; over the samples it is a loss gap in nats, for
    a calibrated model. It grows with the number of samples: compare only equal `curvature/samples`, at most 512 of
    the probe. Not invariant to a scaling of the logits, nor, at fixed R, to ReLU rescaling. Cost: at most 60
    products of about four forwards over those samples; below 100 directions at least two starts, at most 120
    products; twice that where R varies. Absent, with a note, where the model cannot be differentiated twice or does
    not fit into memory. Reference: Shoham et al. 2025 (arXiv 2506.17809).
    """
    found = probe.cached(measured)
    if found is None:
        return {}
    ridge = probe.cached(ridge_of)
    largest = found.plain.largest(LARGEST)
    return {
        **_at_ridges(found, "curvature/"),
        "curvature/lambda": ridge.value,
        "curvature/lambda_assumed": float(ridge.assumed),
        "curvature/lambda_varies": float(ridge.metric is not None),
        "curvature/top_eigenvalue": largest[0] if largest else 0.0,
        **{f"curvature/top_eigenvalue_{rank}": value for rank, value in enumerate(largest[1:], start=2)},
        "curvature/rung": float(found.rung),
        "curvature/spectrum": found.plain.density(),
    }


def full_soft_rank(probe: Probe) -> dict[str, float]:
    """The soft rank on all samples of the probe, for the end of training: nearer to that of the training set.

    Keys `curvature/full/soft_rank`, `..._lower`, `..._upper`, `..._1e-5` to `..._1e-1`, `curvature/full/trace`,
    `curvature/full/samples`, `curvature/full/parameters` and `curvature/full/products`, as for `soft_rank`, whose
    ridge it shares. Cost: as `soft_rank`, with products over all samples of the probe. Absent, with a note, where that
    is.
    """
    found = _measured(probe, "curvature/full/*", whole)
    return {} if found is None else _at_ridges(found, "curvature/full/")


def measured(probe: Probe) -> SoftRank | None:
    """The soft rank and the spectrum at the probe's weights; None, with a note, where they are absent."""
    return _measured(probe, "curvature/soft_rank", sampled)


def _measured(probe: Probe, name: str, samples: Callable[[Probe], CurvatureInMemory]) -> SoftRank | None:
    ridge = probe.cached(ridge_of)
    return with_curvature(probe, name, lambda curvature: at_ridge(curvature, ridge, probe.seed), samples)


def at_ridge(curvature: Curvature, ridge: Ridge, seed: int) -> SoftRank:
    """One estimate for a uniform ridge; where it varies, one in its metric and one in the plain metric."""
    plain = estimated(curvature, ridge.value if ridge.metric is None else ASSUMED_RIDGE, seed)
    headline = plain if ridge.metric is None else estimated(curvature.within(ridge.metric), ridge.value, seed)
    runs = plain.runs if headline is plain else plain.runs + headline.runs
    return SoftRank(
        headline.soft_rank(ridge.value),
        plain,
        sum(map(len, runs)),
        len(curvature.targets),
        curvature.parameters,
        curvature.rung,
    )


def _at_ridges(found: SoftRank, prefix: str) -> dict[str, float]:
    return {
        f"{prefix}soft_rank": found.bracket.middle,
        f"{prefix}soft_rank_lower": found.bracket.lower,
        f"{prefix}soft_rank_upper": found.bracket.upper,
        **{f"{prefix}soft_rank_{name}": found.plain.soft_rank(value).middle for name, value in RIDGES.items()},
        f"{prefix}samples": float(found.samples),
        f"{prefix}parameters": float(found.parameters),
        f"{prefix}trace": found.plain.trace,
        f"{prefix}products": float(found.products),
    }


def estimated(curvature: Curvature, ridge: float, seed: int, most: int = MOST_PRODUCTS) -> LanczosRuns:
    """One Lanczos run from random signs; where the soft rank is small and one start spreads too much, two or more.

    Then there are as many as `most` products in all allow, but at least two. The same seed gives the same signs at
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
    """Lanczos until the bracket at `ridge` is narrow enough, or for `most` products."""
    return lanczos(curvature.product, start, most, lambda run: shrinkage(run, ridge).half_width <= TOLERANCE)
