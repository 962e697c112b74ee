"""Each sample's leverage on its own logits, and the logits without it.

The leverage is Q_i = (1/n) J_i (G + R)^-1 J_i^T, with J_i the sample's Jacobian, G = (1/n) sum J_i^T Lambda_i J_i and
a ridge R on the mean loss. It comes in several forms, each the cheapest for some shapes. Probabilities p and logits f
have the shape (samples, classes), leverages Q and output curvatures Lambda (samples, classes, classes).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot


class LeftOut(NamedTuple):
    """Logits as if each sample had been left out, and the largest leverage of each, in [0, 1)."""

    logits: Tensor
    leverage: Tensor


def output_curvature(probabilities: Tensor) -> Tensor:
    """Lambda = diag(p) - p p^T per sample; shape (samples, classes, classes)."""
    return torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None, :]


def dense_blocks(features: Tensor, curvature: Tensor, ridge: float | Tensor) -> Tensor:
    """Q_i = (1/n) J_i (G + ridge)^-1 J_i^T for J_i = I (x) phi_i^T; shape (samples, classes, classes).

    Args:
        features: phi, shape (samples, inputs).
        curvature: Lambda, shape (samples, classes, classes).
        ridge: one number, or shape (classes, inputs).
    """
    count, inputs = features.shape
    classes = curvature.shape[1]
    hessian = features.new_zeros(classes, inputs, classes, inputs)
    for row in range(classes):
        for column in range(row, classes):
            block = features.T @ (curvature[:, row, column, None] * features) / count
            hessian[row, :, column] = block
            hessian[column, :, row] = block
    hessian = hessian.reshape(classes * inputs, -1)
    hessian.diagonal().add_(ridge.flatten() if isinstance(ridge, Tensor) else ridge)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian)).reshape(classes, inputs, classes, inputs)
    blocks = features.new_zeros(count, classes, classes)
    for row in range(classes):
        for column in range(row, classes):
            block = ((features @ inverse[row, :, column]) * features).sum(1) / count
            blocks[:, row, column] = blocks[:, column, row] = block
    return blocks


def few_blocks(features: Tensor, probabilities: Tensor, ridge: float | Tensor) -> Tensor:
    """The same as `dense_blocks` from the dual: it is cheaper where samples x classes are fewer than the weights."""
    count, classes = probabilities.shape
    gram = features.new_zeros(count, classes, count, classes)
    uniform = features @ features.T
    for index in range(classes):
        gram[:, index, :, index] = (features / ridge[index]) @ features.T if isinstance(ridge, Tensor) else uniform
    rows = count * classes
    return dual_blocks(gram.reshape(rows, rows), probabilities, 1.0 if isinstance(ridge, Tensor) else ridge)


def kronecker_blocks(features: Tensor, curvature: Tensor, ridge: float | Tensor) -> Tensor:
    """The same as `dense_blocks` with G taken as mean(phi phi^T) (x) mean(Lambda), by two small eigendecompositions.

    A ridge that varies is taken as the product of a factor per class and one per input that is nearest in logarithm.
    """
    if isinstance(ridge, Tensor):
        logs = ridge.log()
        per_class, per_input = (logs.mean(dim=1) - logs.mean()).exp().sqrt(), logs.mean(dim=0).exp().sqrt()
        scaled = curvature / (per_class[:, None] * per_class)
        blocks = kronecker_blocks(features / per_input, scaled, 1.0)
        return blocks / (per_class[:, None] * per_class)
    count = len(features)
    inner, inner_vectors = torch.linalg.eigh(features.T @ features / count)
    outer, outer_vectors = torch.linalg.eigh(curvature.mean(dim=0))
    weights = 1 / (inner.clamp(min=0)[:, None] * outer.clamp(min=0) + ridge)
    diagonal = (features @ inner_vectors).square() @ weights
    return torch.einsum("kb,nb,jb->nkj", outer_vectors, diagonal, outer_vectors) / count


def gram_of(jacobian: Tensor) -> Tensor:
    """J J^T, accumulated in float64. One triangle is multiplied in bands, and copied to the other."""
    count = len(jacobian)
    gram = torch.zeros(count, count, dtype=torch.float64)
    bands = torch.arange(count).split(max(count // 8, 64))
    for block in jacobian.split(max(2**25 // max(count, 1), 64), dim=1):
        wide = block.double()
        for band in bands:
            first, last = int(band[0]), int(band[-1]) + 1
            gram[first:, first:last].addmm_(wide[first:], wide[first:last].T)
    return gram.tril() + gram.tril(-1).T


def weight_blocks(jacobian: Tensor, probabilities: Tensor, ridge: float) -> Tensor:
    """Q_i of any Jacobian, shape (samples x classes, weights), from G itself: cheaper where the weights are fewer."""
    count, classes = probabilities.shape
    step = max(2**22 // (classes * jacobian.shape[1]), 1)  # samples at once
    parts = jacobian.reshape(count, classes, -1).split(step)
    hessian = probabilities.new_zeros(jacobian.shape[1], jacobian.shape[1])
    for rows, p in zip(parts, probabilities[:, :, None].split(step), strict=True):
        half = _factor_transposed(p, rows).flatten(0, 1)
        hessian.addmm_(half.T, half, alpha=1 / count)
    hessian.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(hessian)
    blocks = []
    for rows in parts:
        solved = torch.linalg.solve_triangular(factor, rows.to(factor).flatten(0, 1).T, upper=False)
        solved = solved.reshape(-1, len(rows), classes)
        blocks.append(torch.einsum("xnk,xnj->nkj", solved, solved) / count)
    return torch.cat(blocks)


def dual_blocks(gram: Tensor, probabilities: Tensor, ridge: float) -> Tensor:
    """Q_i of any Jacobian from Theta = J J^T: (1/(n l)) [Theta - Theta B (n l + B^T Theta B)^-1 B^T Theta]_ii."""
    count, classes = probabilities.shape
    size = count * classes

    def half(matrix: Tensor) -> Tensor:
        return _factor_transposed(probabilities[:, :, None], matrix.reshape(count, classes, -1)).reshape(size, -1)

    right = half(gram)  # B^T Theta
    kernel = half(right.T)  # B^T Theta B
    kernel = 0.5 * (kernel + kernel.T)
    kernel.diagonal().add_(count * ridge)
    solved = torch.linalg.solve_triangular(torch.linalg.cholesky(kernel), right, upper=False)
    solved = solved.reshape(size, count, classes)
    explained = torch.einsum("xnk,xnj->nkj", solved, solved)
    own = gram.reshape(count, classes, count, classes).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    return (own - explained) / (count * ridge)


def _factor_transposed(p: Tensor, columns: Tensor) -> Tensor:
    """B^T of every sample, with B B^T = Lambda, times columns; shapes (samples, classes, ...)."""
    return p.sqrt() * (columns - (p * columns).sum(dim=1, keepdim=True))


def left_out(logits: Tensor, targets: Tensor, blocks: Tensor) -> LeftOut:
    """The logits f + Q (I - Lambda Q)^-1 (p - y) of every sample without it, by one Newton step."""
    probabilities = logits.softmax(dim=1)
    curvature = output_curvature(probabilities)
    residuals = probabilities - one_hot(targets, logits.shape[1])
    identity = torch.eye(logits.shape[1], dtype=logits.dtype)
    amplified = torch.linalg.solve(identity - curvature @ blocks, residuals[:, :, None])
    roots = probabilities.sqrt()
    factor = torch.diag_embed(roots) - probabilities[:, :, None] * roots[:, None, :]
    leverage = torch.linalg.eigvalsh(factor.mT @ blocks @ factor)[:, -1]
    return LeftOut(logits + (blocks @ amplified)[:, :, 0], leverage)
