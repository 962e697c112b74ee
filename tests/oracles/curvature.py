"""Curvature by the plainest float64 code: explicit Jacobians, dense matrices, refits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, one_hot


def jacobian(model: nn.Module, inputs: Tensor) -> Tensor:
    """d logits / d trained parameters; shape (samples, classes, parameters)."""
    weights = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}

    def logits(at: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, at, (inputs,))

    with sdpa_kernel(SDPBackend.MATH):  # torch.func has no batching rule for the fused kernels
        parts = torch.func.jacrev(logits)(weights)
    return torch.cat([part.flatten(2) for part in parts.values()], dim=2)


def output_curvature(logits: Tensor) -> Tensor:
    """diag(p) - p p^T of every sample."""
    p = logits.detach().softmax(dim=1)
    return torch.stack([row.diag() - torch.outer(row, row) for row in p])


def gauss_newton(model: nn.Module, inputs: Tensor) -> Tensor:
    """(1/n) sum J_i^T Lambda_i J_i; shape (parameters, parameters)."""
    rows = jacobian(model, inputs)
    curvature = output_curvature(model(inputs))
    return sum(j.T @ c @ j for j, c in zip(rows, curvature, strict=True)) / len(rows)


def root(probabilities: Tensor) -> Tensor:
    """B = diag(sqrt p) - p sqrt(p)^T of one sample."""
    return probabilities.sqrt().diag() - torch.outer(probabilities, probabilities.sqrt())


def half(model: nn.Module, inputs: Tensor) -> Tensor:
    """B^T J; shape (samples x classes, parameters)."""
    p = model(inputs).detach().softmax(dim=1)
    return torch.cat([root(q).T @ j for j, q in zip(jacobian(model, inputs), p, strict=True)])


def dual(model: nn.Module, inputs: Tensor) -> Tensor:
    """B^T J J^T B / n; shape (samples x classes, samples x classes)."""
    rows = half(model, inputs)
    return rows @ rows.T / len(inputs)


def soft_rank(matrix: Tensor, ridge: float) -> float:
    eigenvalues = torch.linalg.eigvalsh(matrix).clamp(min=0)
    return float((eigenvalues / (eigenvalues + ridge)).sum())


def diagonal(ridge: float | Tensor, like: Tensor) -> Tensor:
    """The matrix of a uniform ridge, or of one ridge per parameter."""
    return (ridge * torch.ones(len(like)).to(like)).diag()


def soft_rank_at(matrix: Tensor, ridge: float | Tensor) -> float:
    """Tr G (G + R)^-1 by a solve."""
    return float(torch.linalg.solve(matrix + diagonal(ridge, matrix), matrix).trace())


def loss_gradients(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Every sample's gradient of the cross-entropy; shape (samples, parameters)."""
    logits = model(inputs).detach()
    residuals = logits.softmax(dim=1) - one_hot(targets, logits.shape[1])
    return torch.einsum("nkp,nk->np", jacobian(model, inputs), residuals)


def tic(model: nn.Module, inputs: Tensor, targets: Tensor, ridge: float | Tensor) -> float:
    """Tr C (G + R)^-1 / n."""
    gradients = loss_gradients(model, inputs, targets)
    covariance = gradients.T @ gradients / len(gradients)
    matrix = gauss_newton(model, inputs)
    return float(torch.linalg.solve(matrix + diagonal(ridge, matrix), covariance).trace()) / len(inputs)


def leverage_blocks(model: nn.Module, inputs: Tensor, ridge: float | Tensor) -> Tensor:
    """Q_i = J_i (G + R)^-1 J_i^T / n; shape (samples, classes, classes)."""
    rows, matrix = jacobian(model, inputs), gauss_newton(model, inputs)
    inverse = torch.linalg.inv(matrix + diagonal(ridge, matrix))
    return torch.stack([j @ inverse @ j.T for j in rows]) / len(rows)


def fitted_softmax(features: Tensor, targets: Tensor, classes: int, ridge: float) -> Tensor:
    """Weights (classes, inputs) that minimise mean cross-entropy + ridge / 2 |W|^2, by damped Newton steps."""
    count, width = features.shape
    weights = features.new_zeros(classes, width)

    def objective(at: Tensor) -> float:
        return float(cross_entropy(features @ at.T, targets) + 0.5 * ridge * at.square().sum())

    for _ in range(100):
        p = (features @ weights.T).softmax(dim=1)
        gradient = (p - one_hot(targets, classes)).T @ features / count + ridge * weights
        blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        hessian = torch.einsum("nkj,na,nb->kajb", blocks, features, features).reshape(classes * width, -1) / count
        hessian.diagonal().add_(ridge)
        step = torch.linalg.solve(hessian, gradient.flatten()).reshape(classes, width)
        rate, before = 1.0, objective(weights)
        while objective(weights - rate * step) > before and rate > 1e-6:
            rate /= 2
        weights = weights - rate * step
        if float(gradient.norm()) < 1e-9:
            break
    return weights
