"""Products of the layers' norms over the margin, and generalization bounds built on them (Neyshabur et al. 2017)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_gengap.derivatives.memory import FREE, require_room
from lightning_gengap.derivatives.time import LEAVE, of_singular_values, require_time
from lightning_gengap.errors import Undefined
from lightning_gengap.measures.key import FUNCTION, INVARIANT, WEIGHTS, Key
from lightning_gengap.measures.norms.layer_norms import log_key, log_margin, nonzero_layers
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.folding import UNKNOWN_START
from lightning_gengap.network.folding_check import initial_layers
from lightning_gengap.network.probe import Probe

# The products that are given; those of Frobenius and spectral norms are in `norm` and `complexity`, squared.
PRODUCTS = {
    "1_infinity": "largest l1 norms of a unit",
    "3_1.5": "(3, 1.5) group norms",
    "operator_1.5": "1.5-norms of the singular values",
    "trace": "trace norms",
}
PLAIN_BOUNDS = {"1_infinity": 1 / 2, "frobenius": 1 / 2, "3_1.5": 1 / 3}  # the power of n in the denominator
SPECTRAL_BOUNDS = ("spectral_2_1", "spectral_frobenius")


def _keys() -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for name, norms in PRODUCTS.items():
        product = f"sum over layers of the log of {norms}"
        over = f"{product} minus the log of the margin's 10 % quantile"
        keys[f"norm_product/log_{name}"] = log_key(product, FUNCTION)
        keys[f"norm_product/log_{name}_over_margin"] = log_key(over, INVARIANT)
    for name in (*PLAIN_BOUNDS, *SPECTRAL_BOUNDS):
        bound = f"log of the {name} generalization bound without constants"
        keys[f"norm_product/log_bound_{name}"] = log_key(bound, WEIGHTS if name in SPECTRAL_BOUNDS else INVARIANT)
    return keys


KEYS = _keys()


def norm_product(probe: Probe) -> Values:
    """Logs of products over the layers of norms of the folded weights, and of bounds without their constants.

    Every weight tensor W_i (see `norm`) counts as a matrix of outputs by everything else, convolutions too. |W|_{p,q}
    is the q-norm over output units of the p-norm of their incoming weights. Operator norms are p-norms of the singular
    values.

    Keys: `norm_product/log_<norm>` is sum log |W_i|, and `norm_product/log_<norm>_over_margin` is that minus log g,
    with g the 10 % quantile of the output margin. The norms are `1_infinity`, |W|_{1,infinity}; `3_1.5`, |W|_{3,1.5};
    `operator_1.5`, the 1.5-norm of the singular values; `trace`, their sum. (The products of Frobenius and spectral
    norms are half of `norm/log_product_frobenius` and `complexity/log_product_spectral_reshaped`.)

    The bounds have n training samples, d layers, P weights, D input values, a = sqrt(d + log D), and `prod`, a product
    of norms:

    - `norm_product/log_bound_1_infinity` and `..._frobenius`: log of a prod / (g sqrt(n)).
    - `..._3_1.5`: log of a prod / (g n^(1/3)).
    - `..._spectral_2_1`: log of log(n) log(P) (prod / g) (sum r_i^(2/3))^(3/2) / sqrt(n), with spectral norms in prod
      and r_i = |W_i - W0_i|_{2,1} / |W_i|_2.
    - `..._spectral_frobenius`: log of d (prod / g) (sum h_i r_i^2)^(1/2) / sqrt(n), with r_i = |W_i - W0_i|_F / |W_i|_2
      and h_i the layer's output units.

    What has g is absent unless g > 0; bounds are absent without n, the first three without float inputs, the last two
    without initial weights. Cost: the singular values of every kernel; the forward of `fit` is shared.

    Raises:
        Undefined: a layer cannot be folded, or is zero; or it takes more memory than there is, or more than a minute.

    References: Neyshabur et al. 2017 (arXiv 1706.08947), Bartlett et al. 2017 (arXiv 1706.08498), Neyshabur et al. 2018
    (arXiv 1707.09564).
    """
    layers = nonzero_layers(probe).values()
    weights = [layer.weight.numel() for layer in layers]
    require_room(8 * (2 * sum(weights) + 3 * max(weights)), "all weights in double precision", FREE)
    work = sum(2 * of_singular_values(len(layer.weight), layer.weight[0].numel()) for layer in layers)
    require_time(work, "the singular values of all layers", LEAVE)
    matrices = [layer.matrix() for layer in layers]
    logs = log_products(matrices)
    values: dict[str, Value] = {f"norm_product/log_{name}": logs[name] for name in PRODUCTS}
    margin = log_margin(probe)
    if isinstance(margin, Undefined):
        return values | {"norm_product/*_over_margin*": margin, "norm_product/log_bound_*": margin}
    values |= {f"norm_product/log_{name}_over_margin": logs[name] - margin for name in PRODUCTS}
    if probe.train_samples is None or probe.train_samples < 2:
        return values | {"norm_product/log_bound_*": Undefined("the number of training samples is unknown or one")}
    samples = math.log(probe.train_samples)
    inputs = probe.batches[0].inputs
    for name, power in PLAIN_BOUNDS.items():
        values[f"norm_product/log_bound_{name}"] = (
            Undefined(str(probe.no_inputs))
            if inputs is None
            else 0.5 * math.log(len(matrices) + math.log(inputs[0].numel())) + logs[name] - margin - power * samples
        )
    try:
        values |= spectral_bounds(
            matrices, _changes(probe, matrices), logs["spectral"] - margin - 0.5 * samples, samples
        )
    except Undefined as undefined:
        values["norm_product/log_bound_spectral_*"] = undefined
    return values


def _changes(probe: Probe, matrices: list[Tensor]) -> list[Tensor]:
    """The matrices minus the initial ones."""
    start = initial_layers(probe)
    if start is None:
        raise Undefined(UNKNOWN_START)
    changes = [matrix - layer.matrix() for matrix, layer in zip(matrices, start.values(), strict=True)]
    if not any(bool(change.any()) for change in changes):
        raise Undefined("nothing has moved")
    return changes


def spectral_bounds(matrices: list[Tensor], moved: list[Tensor], rest: float, samples: float) -> dict[str, float]:
    """The two bounds with distances from the start.

    `rest` is the log of (product of spectral norms) / (margin sqrt(n)), and `samples` that of n.
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
    """Sum over the matrices of the log of each norm."""
    logs: dict[str, float] = {}
    for matrix in matrices:
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
