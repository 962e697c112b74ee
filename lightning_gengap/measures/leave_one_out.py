"""Approximate leave-one-out: each sample's logits had it not been trained on, to second order of the loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, nll_loss, one_hot

from lightning_gengap.curvature import jacobian_of, trained
from lightning_gengap.measures.soft_rank import ridge_of
from lightning_gengap.probe import Probe
from lightning_gengap.trace import clean_name

DENSE_WEIGHTS = 1500  # of the last layer; above, its curvature is taken as a Kronecker product
DENSE_ROWS = 2000  # samples x classes of the whole network
DENSE_WORK = 1e11  # rows^2 x parameters: some ten seconds on one core
DENSE_JACOBIAN = 2**28  # rows x parameters: 1 GiB in float32
FEWEST = 20
NEAR_ONE = 0.99
SMALLEST_PROBABILITY = 1e-10


class LastLayer(NamedTuple):
    """What enters the final linear layer and what leaves it, float64, on the CPU.

    Attributes:
        features: shape (samples, inputs), a 1 appended where the layer has a bias.
        logits: shape (samples, classes).
    """

    features: Tensor
    logits: Tensor


class LeftOut(NamedTuple):
    """Logits as if each sample had been left out, and the largest leverage of each, in [0, 1)."""

    logits: Tensor
    leverage: Tensor


def leave_one_out(probe: Probe) -> dict[str, float]:
    """Leave-one-out gaps of the last layer's weights, all others held, by one Newton step with exact leverage.

    f_i without i = f_i + Q_i (I - Lambda_i Q_i)^-1 (p_i - y_i), Q_i = (1/n) J_i (G + l)^-1 J_i^T, with G the
    Gauss-Newton matrix of the mean cross-entropy on the probe's n samples, and l as for the soft rank. Keys:
    `loo/last_layer/accuracy_gap` (fraction, train minus left out), `loo/last_layer/loss_gap` (nats, left out minus
    train, probabilities at least 1e-10), `loo/last_layer/leverage` (share of samples whose leverage exceeds 0.99:
    there the step is not to be trusted) and `loo/last_layer/exact` (0: G by its Kronecker approximation, for layers
    of more than 1500 weights).

    The features were fitted to the sample too, so that this is a lower bound in spirit, and away from a minimum only
    a sensitivity. Invariant to rescaling before a batch norm. Absent, with a note, where the logits are not the
    output of a trained linear layer. Cost: one forward and a solve with the layer's weights. Reference: Nickl et al.
    2023 (arXiv 2310.19273), with the leverage correction.
    """
    layer = last_layer(probe)
    if layer is None:
        return {}
    ridge = ridge_of(probe).value
    exact = layer.features.shape[1] * layer.logits.shape[1] <= DENSE_WEIGHTS
    probabilities = layer.logits.softmax(dim=1)
    blocks = (dense_blocks if exact else kronecker_blocks)(layer.features, output_curvature(probabilities), ridge)
    gaps = _gaps("last_layer", layer.logits, left_out(layer.logits, probe.targets, blocks), probe.targets)
    return gaps | {"loo/last_layer/exact": float(exact)}


def network_leave_one_out(probe: Probe) -> dict[str, float]:
    """The same with respect to all trained parameters, from the explicit Jacobian of a few samples.

    Keys `loo/network/accuracy_gap`, `loo/network/loss_gap`, `loo/network/leverage` and `loo/network/samples`: the
    number n of samples that stand for the training set, at most 2000 / classes, fewer for large networks; they are
    part of the value, as they are for the soft rank. Cost: classes backwards over those samples, n x classes squared
    times parameters multiplications and a solve. Absent, with a note, where fewer than 20 samples are affordable.
    """
    parameters = sum(weight.numel() for weight in trained(probe)[1])
    with torch.no_grad():
        classes = probe.logits_on(probe.batches[0].content, len(probe.batches[0].targets)).shape[1]
    count = min(len(probe.targets), affordable(parameters, classes))
    if count < FEWEST or not parameters:
        probe.notes.append(f"loo/network/* is absent: {parameters} trained parameters, {count} samples affordable")
        return {}
    try:
        jacobian, logits, targets = jacobian_of(probe, count)
    except Exception as error:
        probe.notes.append(f"loo/network/* is absent: {type(error).__name__}: {error}")
        return {}
    blocks = dual_blocks(gram_of(jacobian), logits.softmax(dim=1), ridge_of(probe).value)
    values = _gaps("network", logits, left_out(logits, targets, blocks), targets)
    return values | {"loo/network/samples": float(count)}


def last_layer(probe: Probe) -> LastLayer | None:
    """Inputs and outputs of the last linear layer the forward calls, if its outputs are the logits."""
    modules = {clean_name(name): module for name, module in probe.model.named_modules()}
    ran = [met for met in probe.layout.ran if isinstance(modules[met.module], nn.Linear)]
    module = modules[ran[-1].module] if ran else None
    if not isinstance(module, nn.Linear) or ran[-1].calls != 1:
        probe.notes.append("loo/last_layer/* is absent: no linear layer is called once at the end of the forward")
        return None
    if not any(parameter.requires_grad for parameter in module.parameters()):
        probe.notes.append(f"loo/last_layer/* is absent: {ran[-1].module!r} is frozen")
        return None
    seen: list[tuple[Tensor, Tensor]] = []
    features, logits = [], []
    handle = module.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    try:
        with torch.no_grad():
            for batch in probe.batches:
                seen.clear()
                found = probe.logits_on(batch.content, len(batch.targets))
                entering, leaving = seen[-1]
                if leaving.shape != found.shape or not torch.equal(leaving.to(found.dtype), found):
                    probe.notes.append(f"loo/last_layer/* is absent: {ran[-1].module!r} does not yield the logits")
                    return None
                features.append(entering.detach().cpu().double())
                logits.append(found.cpu().double())
    finally:
        handle.remove()
    rows = torch.cat(features)
    if module.bias is not None:
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
    return LastLayer(rows, torch.cat(logits))


def output_curvature(probabilities: Tensor) -> Tensor:
    """Lambda = diag(p) - p p^T per sample; shape (samples, classes, classes)."""
    return torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None, :]


def dense_blocks(features: Tensor, curvature: Tensor, ridge: float) -> Tensor:
    """Q_i = (1/n) J_i (G + ridge)^-1 J_i^T for J_i = I (x) phi_i^T; shape (samples, classes, classes).

    Args:
        features: phi, shape (samples, inputs).
        curvature: Lambda, shape (samples, classes, classes).
        ridge: on the mean loss.
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
    hessian.diagonal().add_(ridge)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian)).reshape(classes, inputs, classes, inputs)
    rows = [[((features @ inverse[k, :, j]) * features).sum(1) for j in range(classes)] for k in range(classes)]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1) / count


def kronecker_blocks(features: Tensor, curvature: Tensor, ridge: float) -> Tensor:
    """The same with G taken as mean(phi phi^T) (x) mean(Lambda), by two small eigendecompositions."""
    count = len(features)
    inner, inner_vectors = torch.linalg.eigh(features.T @ features / count)
    outer, outer_vectors = torch.linalg.eigh(curvature.mean(dim=0))
    weights = 1 / (inner.clamp(min=0)[:, None] * outer.clamp(min=0) + ridge)
    diagonal = (features @ inner_vectors).square() @ weights
    return torch.einsum("kb,nb,jb->nkj", outer_vectors, diagonal, outer_vectors) / count


def affordable(parameters: int, classes: int) -> int:
    """The largest number of samples whose explicit Jacobian and Gram matrix are within the limits."""
    parameters = max(parameters, 1)
    rows = min(DENSE_ROWS, DENSE_JACOBIAN / parameters, (DENSE_WORK / parameters) ** 0.5)
    return int(rows) // classes


def gram_of(jacobian: Tensor) -> Tensor:
    """J J^T, accumulated in float64."""
    gram = torch.zeros(len(jacobian), len(jacobian), dtype=torch.float64)
    for block in jacobian.split(2**14, dim=1):
        wide = block.double()
        gram += wide @ wide.T
    return gram


def dual_blocks(gram: Tensor, probabilities: Tensor, ridge: float) -> Tensor:
    """Q_i for the whole network from Theta = J J^T: (1/(n l)) [Theta - Theta B (n l + B^T Theta B)^-1 B^T Theta]_ii.

    Args:
        gram: Theta, shape (samples x classes, samples x classes).
        probabilities: shape (samples, classes).
        ridge: l, on the mean loss.

    Returns:
        Shape (samples, classes, classes).
    """
    count, classes = probabilities.shape
    size = count * classes
    p = probabilities[:, :, None]

    def half(matrix: Tensor) -> Tensor:
        """B^T from the left, column by column."""
        columns = matrix.reshape(count, classes, -1)
        return (p.sqrt() * (columns - (p * columns).sum(dim=1, keepdim=True))).reshape(size, -1)

    right = half(gram)  # B^T Theta
    kernel = half(right.T)  # B^T Theta B
    kernel = 0.5 * (kernel + kernel.T)
    kernel.diagonal().add_(count * ridge)
    solved = torch.linalg.solve_triangular(torch.linalg.cholesky(kernel), right, upper=False)
    solved = solved.reshape(size, count, classes)
    explained = torch.einsum("xnk,xnj->nkj", solved, solved)
    own = gram.reshape(count, classes, count, classes).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    return (own - explained) / (count * ridge)


def left_out(logits: Tensor, targets: Tensor, blocks: Tensor) -> LeftOut:
    """The step f + Q (I - Lambda Q)^-1 (p - y) for every sample.

    Args:
        logits: f, shape (samples, classes).
        targets: class indices, shape (samples,).
        blocks: Q, shape (samples, classes, classes).
    """
    probabilities = logits.softmax(dim=1)
    curvature = output_curvature(probabilities)
    residuals = probabilities - one_hot(targets, logits.shape[1])
    identity = torch.eye(logits.shape[1], dtype=logits.dtype)
    amplified = torch.linalg.solve(identity - curvature @ blocks, residuals[:, :, None])
    roots = probabilities.sqrt()
    factor = torch.diag_embed(roots) - probabilities[:, :, None] * roots[:, None, :]
    leverage = torch.linalg.eigvalsh(factor.mT @ blocks @ factor)[:, -1]
    return LeftOut(logits + (blocks @ amplified)[:, :, 0], leverage)


def _gaps(name: str, logits: Tensor, left: LeftOut, targets: Tensor) -> dict[str, float]:
    def loss(of: Tensor) -> float:
        floor = torch.log(torch.tensor(SMALLEST_PROBABILITY, dtype=of.dtype))
        return float(nll_loss(log_softmax(of, dim=1).clamp(min=floor), targets))

    def accuracy(of: Tensor) -> float:
        return float((of.argmax(1) == targets).double().mean())

    return {
        f"loo/{name}/accuracy_gap": accuracy(logits) - accuracy(left.logits),
        f"loo/{name}/loss_gap": loss(left.logits) - loss(logits),
        f"loo/{name}/leverage": float((left.leverage > NEAR_ONE).double().mean()),
    }
