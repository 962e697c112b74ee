"""Each sample's leverage on its own logits.

The leverage is Q_i = (1/n) J_i (G + R)^-1 J_i^T, with J_i the sample's Jacobian, G = (1/n) sum J_i^T Lambda_i J_i and
a ridge R on the mean loss. It comes in several forms, each the cheapest for some shapes. Probabilities p and logits f
have the shape (samples, classes), leverages Q and output curvatures Lambda (samples, classes, classes). With many
classes all Q are more than memory holds: they are made for some samples at a time, by `blocks[rows]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MOST_NUMBERS = 2**20  # in the Q of the samples that go together; a dozen such tensors are held at once
GRAM_BLOCK = 2**25  # numbers of a Jacobian that are in float64 at once


class Blocks(Protocol):
    """The leverages Q of all samples; those of some are made when asked for. A tensor of all of them is one, too."""

    def __getitem__(self, rows: slice, /) -> Tensor:
        """Q of these samples, shape (rows, classes, classes)."""


@dataclass(frozen=True)
class DenseBlocks:
    """Q_i = (1/n) J_i (G + ridge)^-1 J_i^T for J_i = I (x) phi_i^T.

    Attributes:
        features: phi, shape (samples, inputs).
        inverse: of G + ridge, shape (classes, inputs, classes, inputs).
    """

    features: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, features: Tensor, hessian: Tensor, ridge: float | Tensor) -> DenseBlocks:
        """From G, shape (classes, inputs, classes, inputs), which is overwritten."""
        shape = hessian.shape
        matrix = hessian.reshape(shape[0] * shape[1], -1)
        matrix.diagonal().add_(ridge.flatten() if isinstance(ridge, Tensor) else ridge)
        return cls(features, torch.cholesky_inverse(torch.linalg.cholesky(matrix)).reshape(shape))

    def __getitem__(self, rows: slice, /) -> Tensor:
        features, count = self.features[rows], len(self.features)
        classes, inputs = self.inverse.shape[:2]
        blocks = features.new_zeros(len(features), classes, classes)
        for row in range(classes):
            if classes > inputs:
                moved = (features @ self.inverse[row].reshape(inputs, -1)).reshape(-1, classes, inputs)
                blocks[:, row] = (moved * features[:, None]).sum(2) / count
                continue
            for column in range(row, classes):
                block = ((features @ self.inverse[row, :, column]) * features).sum(1) / count
                blocks[:, row, column] = blocks[:, column, row] = block
        return blocks


def dense_blocks(features: Tensor, probabilities: Tensor, ridge: float | Tensor) -> DenseBlocks:
    """The leverages of a linear layer by its dense curvature.

    Memory: 24 bytes times the squared number of the layer's weights.

    Args:
        features: phi, shape (samples, inputs).
        probabilities: p, shape (samples, classes).
        ridge: one number, or shape (classes, inputs).
    """
    count, inputs = features.shape
    classes = probabilities.shape[1]
    hessian = features.new_zeros(classes, inputs, classes, inputs)
    if classes > inputs:  # fewer pairs of inputs than of classes
        for row in range(inputs):
            for column in range(row, inputs):
                both = (features[:, row] * features[:, column] / count)[:, None]
                block = (both * probabilities).sum(0).diag() - probabilities.T @ (both * probabilities)
                hessian[:, row, :, column] = hessian[:, column, :, row] = block
        return DenseBlocks.of(features, hessian, ridge)
    for row in range(classes):
        for column in range(row, classes):
            curvature = probabilities[:, row] * (float(row == column) - probabilities[:, column])
            block = features.T @ (curvature[:, None] * features) / count
            hessian[row, :, column] = block
            hessian[column, :, row] = block
    return DenseBlocks.of(features, hessian, ridge)


def few_blocks(features: Tensor, probabilities: Tensor, ridge: float | Tensor) -> Tensor:
    """The same as `dense_blocks` from the dual: it is cheaper where samples x classes are fewer than the weights."""
    count, classes = probabilities.shape
    gram = features.new_zeros(count, classes, count, classes)
    uniform = features @ features.T
    for index in range(classes):
        gram[:, index, :, index] = (features / ridge[index]) @ features.T if isinstance(ridge, Tensor) else uniform
    rows = count * classes
    return dual_blocks(gram.reshape(rows, rows), probabilities, 1.0 if isinstance(ridge, Tensor) else ridge)


@dataclass(frozen=True)
class KroneckerBlocks:
    """Q_i = (1/n) V diag(d_i) V^T, divided by a factor of each of both classes.

    Attributes:
        vectors: V, shape (classes, classes).
        diagonals: d, shape (samples, classes).
        factors: shape (classes,).
    """

    vectors: Tensor
    diagonals: Tensor
    factors: Tensor

    def __getitem__(self, rows: slice, /) -> Tensor:
        scaled = self.vectors / self.factors[:, None]
        return (scaled * self.diagonals[rows, None, :]) @ scaled.T / len(self.diagonals)


def kronecker_blocks(features: Tensor, probabilities: Tensor, ridge: float | Tensor) -> KroneckerBlocks:
    """The same as `dense_blocks` with G taken as mean(phi phi^T) (x) mean(Lambda), by two small eigendecompositions.

    A ridge that varies is taken as the product of a factor per class and one per input that is nearest in logarithm.
    """
    per_class = features.new_ones(probabilities.shape[1])
    if isinstance(ridge, Tensor):
        logs = ridge.log()
        per_class, per_input = (logs.mean(dim=1) - logs.mean()).exp().sqrt(), logs.mean(dim=0).exp().sqrt()
        features, ridge = features / per_input, 1.0
    count = len(features)
    curvature = probabilities.mean(dim=0).diag() - probabilities.T @ probabilities / count
    outer, outer_vectors = torch.linalg.eigh(curvature / (per_class[:, None] * per_class))
    if features.shape[1] > count:  # the other inner directions are orthogonal to every phi
        inner, inner_vectors = torch.linalg.eigh(features @ features.T / count)
        squares = inner_vectors.square() * (count * inner.clamp(min=0))
    else:
        inner, inner_vectors = torch.linalg.eigh(features.T @ features / count)
        squares = (features @ inner_vectors).square()
    weights = 1 / (inner.clamp(min=0)[:, None] * outer.clamp(min=0) + ridge)
    return KroneckerBlocks(outer_vectors, squares @ weights, per_class)


def gram_of(jacobian: Tensor) -> Tensor:
    """J J^T, accumulated in float64. One triangle is multiplied in bands, and copied to the other."""
    count = len(jacobian)
    gram = torch.zeros(count, count, dtype=torch.float64)
    bands = torch.arange(count).split(max(count // 8, 64))
    for block in jacobian.split(max(GRAM_BLOCK // max(count, 1), 64), dim=1):
        wide = block.double()
        for band in bands:
            first, last = int(band[0]), int(band[-1]) + 1
            gram[first:, first:last].addmm_(wide[first:], wide[first:last].T)
    return gram.tril() + gram.tril(-1).T


@dataclass(frozen=True)
class WeightBlocks:
    """Q_i of any Jacobian, by the Cholesky factor of G + ridge.

    Attributes:
        jacobian: shape (samples, classes, weights).
        factor: lower, shape (weights, weights).
    """

    jacobian: Tensor
    factor: Tensor

    def __getitem__(self, rows: slice, /) -> Tensor:
        parts = []
        for own in self.jacobian[rows].split(_together(self.jacobian)):
            solved = torch.linalg.solve_triangular(self.factor, own.to(self.factor).flatten(0, 1).T, upper=False)
            solved = solved.reshape(-1, *own.shape[:2])
            parts.append(torch.einsum("xnk,xnj->nkj", solved, solved) / len(self.jacobian))
        return torch.cat(parts)


def weight_blocks(jacobian: Tensor, probabilities: Tensor, ridge: float) -> WeightBlocks:
    """Q_i of any Jacobian, shape (samples x classes, weights), from G itself: cheaper where the weights are fewer."""
    count, classes = probabilities.shape
    by_sample = jacobian.reshape(count, classes, -1)
    step = _together(by_sample)
    hessian = probabilities.new_zeros(jacobian.shape[1], jacobian.shape[1])
    for rows, p in zip(by_sample.split(step), probabilities[:, :, None].split(step), strict=True):
        half = factor_transposed(p, rows).flatten(0, 1)
        hessian.addmm_(half.T, half, alpha=1 / count)
    hessian.diagonal().add_(ridge)
    return WeightBlocks(by_sample, torch.linalg.cholesky(hessian))


def _together(by_sample: Tensor) -> int:
    """Samples whose Jacobians are taken at once."""
    return max(MOST_NUMBERS // by_sample[0].numel(), 1)


def dual_blocks(gram: Tensor, probabilities: Tensor, ridge: float) -> Tensor:
    """Q_i of any Jacobian from Theta = J J^T: (1/(n l)) [Theta - Theta B (n l + B^T Theta B)^-1 B^T Theta]_ii."""
    count, classes = probabilities.shape
    size = count * classes

    def half(matrix: Tensor) -> Tensor:
        return factor_transposed(probabilities[:, :, None], matrix.reshape(count, classes, -1)).reshape(size, -1)

    right = half(gram)  # B^T Theta
    kernel = half(right.T)  # B^T Theta B
    kernel = 0.5 * (kernel + kernel.T)
    kernel.diagonal().add_(count * ridge)
    solved = torch.linalg.solve_triangular(torch.linalg.cholesky(kernel), right, upper=False)
    solved = solved.reshape(size, count, classes)
    explained = torch.einsum("xnk,xnj->nkj", solved, solved)
    own = gram.reshape(count, classes, count, classes).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    return (own - explained) / (count * ridge)


def factor_transposed(p: Tensor, columns: Tensor) -> Tensor:
    """B^T of every sample, with B B^T = Lambda, times columns; shapes (samples, classes, ...)."""
    return p.sqrt() * (columns - (p * columns).sum(dim=1, keepdim=True))
