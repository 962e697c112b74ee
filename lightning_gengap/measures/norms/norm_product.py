"""Products of the layers' norms over the margin, and generalization bounds built on them (Neyshabur et al. 2017)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_gengap.measures.norms.layer_norms import as_matrix, log_margin
from lightning_gengap.network.folding_check import initial_weights, verified_weights
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.trace import clean_name
from lightning_gengap.network.weight_layers import NotFoldableError

# Names of the products that are logged; Frobenius and spectral norms are in `norm` and `complexity`, squared.
LOGGED = ("1_infinity", "3_1.5", "operator_1.5", "trace")


def norm_product(probe: Probe) -> dict[str, float]:
    """Logs of products over the layers of norms of the folded weights, and of bounds without their constants.

    Every weight tensor W_i (see `norm`) counts as a matrix of outputs by everything else, convolutions too. |W|_{p,q}
    is the q-norm over output units of the p-norm of their incoming weights; operator norms are p-norms of the singular
    values.

    Keys `norm_product/log_<norm>`, sum log |W_i|, and `norm_product/log_<norm>_over_margin`, that minus log g with g
    the 10 % quantile of the output margin, for the norms `1_infinity`, |W|_{1,infinity}; `3_1.5`, |W|_{3,1.5};
    `operator_1.5`, 1.5-norm of the singular values; `trace`, their sum. (The products of Frobenius and spectral norms
    are half of `norm/log_product_frobenius` and `complexity/log_product_spectral_reshaped`.)

    With n training samples, d layers, P weights, D input values, a = sqrt(d + log D), and `prod` a product of norms:
    `norm_product/log_bound_1_infinity` and `..._frobenius`, log of a prod / (g sqrt(n)); `..._3_1.5`, log of
    a prod / (g n^(1/3)); `..._spectral_2_1`, log of log(n) log(P) (prod / g) (sum r_i^(2/3))^(3/2) / sqrt(n) with
    spectral norms in prod and r_i = |W_i - W0_i|_{2,1} / |W_i|_2; `..._spectral_frobenius`, log of
    d (prod / g) (sum h_i r_i^2)^(1/2) / sqrt(n) with r_i = |W_i - W0_i|_F / |W_i|_2 and h_i the layer's output units.

    Unit: log of weights, respectively of weights over logits, unbounded. Products are invariant to ReLU rescaling and,
    folded, to rescaling before batch norm; over the margin also to a scaling of the last layer; so are the first three
    bounds, but not the last two, as the initial weights stay. Absent with a note: all where a layer cannot be folded,
    what has g unless g > 0, bounds without n, float inputs or (the last two) initial weights. Cost: the singular values
    of every kernel; the margins' forward is shared. References: Neyshabur et al. 2017 (arXiv 1706.08947), Bartlett et
    al. 2017 (arXiv 1706.08498), Neyshabur et al. 2018 (arXiv 1707.09564).
    """
    try:
        weights, start = verified_weights(probe), initial_weights(probe)
        modules = {clean_name(name): module for name, module in probe.model.named_modules()}
        matrices = {name: as_matrix(modules[name], weight) for name, weight in weights.items()}
        logs = log_products(list(matrices.values()))
    except NotFoldableError as reason:
        probe.notes.append(f"norm_product/* is absent: {reason}")
        return {}
    values = {f"norm_product/log_{name}": logs[name] for name in LOGGED}
    margin = log_margin(probe)
    if margin is None:
        probe.notes.append(
            "norm_product/log_bound and all over_margin are absent: the 10 % quantile of the margin is not positive"
        )
        return values
    values |= {f"norm_product/log_{name}_over_margin": logs[name] - margin for name in LOGGED}
    if probe.train_samples is None or probe.train_samples < 2:
        probe.notes.append("norm_product/log_bound is absent: the number of training samples is unknown or one")
        return values
    inputs, samples = probe.batches[0].inputs, math.log(probe.train_samples)
    if inputs is None:
        probe.notes.append("norm_product/log_bound_1_infinity, frobenius, 3_1.5 are absent: the inputs are not floats")
    else:
        depth = 0.5 * math.log(len(matrices) + math.log(inputs[0].numel()))
        for name, power in (("1_infinity", 1 / 2), ("frobenius", 1 / 2), ("3_1.5", 1 / 3)):
            values[f"norm_product/log_bound_{name}"] = depth + logs[name] - margin - power * samples
    if start is None:
        probe.notes.append("norm_product/log_bound_spectral_2_1 and spectral_frobenius are absent: no initial weights")
        return values
    moved = {name: matrix - as_matrix(modules[name], start[name]) for name, matrix in matrices.items()}
    if not any(bool(change.any()) for change in moved.values()):
        probe.notes.append("norm_product/log_bound_spectral_2_1 and spectral_frobenius are absent: nothing has moved")
        return values
    rest = logs["spectral"] - margin - 0.5 * samples
    return values | spectral_bounds(list(matrices.values()), list(moved.values()), rest, samples)


def spectral_bounds(matrices: list[Tensor], moved: list[Tensor], rest: float, samples: float) -> dict[str, float]:
    """The two bounds with distances from the start.

    Args:
        matrices: the layers' weights.
        moved: their changes.
        rest: log of (product of spectral norms) / (margin sqrt(n)).
        samples: log n.
    """
    pairs = [
        (change, float(torch.linalg.matrix_norm(matrix, ord=2))) for matrix, change in zip(matrices, moved, strict=True)
    ]
    by_groups = 1.5 * math.log(sum((float(change.norm(dim=1).sum()) / norm) ** (2 / 3) for change, norm in pairs))
    by_units = 0.5 * math.log(sum(len(change) * (float(change.norm()) / norm) ** 2 for change, norm in pairs))
    logarithms = math.log(samples * math.log(sum(matrix.numel() for matrix in matrices)))
    return {
        "norm_product/log_bound_spectral_2_1": logarithms + rest + by_groups,
        "norm_product/log_bound_spectral_frobenius": math.log(len(matrices)) + rest + by_units,
    }


def log_products(matrices: list[Tensor]) -> dict[str, float]:
    """Sum over the matrices of the log of each norm.

    Raises:
        NotFoldableError: a matrix is zero or not finite.
    """
    logs: dict[str, float] = {}
    for matrix in matrices:
        if not (bool(matrix.isfinite().all()) and bool(matrix.any())):
            raise NotFoldableError("a weight layer is zero or not finite")
        singular = torch.linalg.svdvals(matrix)
        norms = {
            "1_infinity": matrix.abs().sum(dim=1).max(),
            "frobenius": matrix.norm(),
            "3_1.5": matrix.norm(3, dim=1).norm(1.5),
            "spectral": singular[0],
            "operator_1.5": singular.norm(1.5),
            "trace": singular.sum(),
        }
        logs = {name: logs.get(name, 0.0) + math.log(float(norm)) for name, norm in norms.items()}
    return logs
