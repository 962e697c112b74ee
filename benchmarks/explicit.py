"""The curvature of the soft rank from the explicit Jacobian: the plainest reference, for small problems."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_gengap.derivatives.gauss_newton import Curvature, jacobian_of
from lightning_gengap.linalg.leverage import gram_of
from lightning_gengap.network.probe import Probe


def curvature_rows(probe: Probe, curvature: Curvature) -> Tensor:
    """B^T J / sqrt(samples), of shape (samples x classes, parameters): the Gauss-Newton matrix is rows^T rows."""
    rows, _, _ = jacobian_of(probe, len(curvature.targets))
    for columns, p in zip(rows.view(*curvature.probabilities.shape, -1), curvature.probabilities, strict=True):
        weights = p.to(rows.dtype)[:, None]
        columns.copy_((weights / len(curvature.targets)).sqrt() * (columns - (weights * columns).sum(0)))
    return rows


@dataclass(frozen=True)
class Exact:
    """The spectrum of K = rows rows^T from the explicit Jacobian, see `curvature_rows`."""

    eigenvalues: Tensor
    vectors: Tensor
    rows: Tensor

    @classmethod
    def of(cls, probe: Probe, curvature: Curvature) -> "Exact":
        """From one backward per sample and class."""
        rows = curvature_rows(probe, curvature)
        eigenvalues, vectors = torch.linalg.eigh(gram_of(rows))
        return cls(eigenvalues.clamp(min=0), vectors, rows)

    @property
    def matrix(self) -> Tensor:
        """K itself."""
        return self.vectors @ (self.eigenvalues[:, None] * self.vectors.T)

    def soft_rank(self, ridge: float) -> float:
        """Tr K (K + ridge)^-1."""
        return float((self.eigenvalues / (self.eigenvalues + ridge)).sum())

    def form(self, start: Tensor, ridge: float) -> float:
        """u^T K (K + ridge)^-1 u."""
        return float((self.vectors.T @ start).square() @ (self.eigenvalues / (self.eigenvalues + ridge)))


@dataclass(frozen=True)
class Explicit(Curvature):
    """The curvature whose products are those of the explicit matrix."""

    matrix: Tensor = field(kw_only=True)

    def product(self, vector: Tensor) -> Tensor:
        """K times a vector, in float64."""
        return self.matrix @ vector
