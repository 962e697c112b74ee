"""The norm-based complexity measures of Jiang et al. 2020 that are not in `norm`, `distance` and `path_norm`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.key import FUNCTION, INVARIANT, WEIGHTS, Key
from lightning_gengap.measures.norms.layer_norms import (
    VARIANTS,
    LayerNorms,
    layer_norms,
    log_key,
    log_margin,
    product_and_sum,
)
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.folding import UNKNOWN_START
from lightning_gengap.network.probe import Probe

SUFFIXES = {"operator": "", "reshaped": "_reshaped", "fft": "_fft"}
_NORMS = {
    "operator": "operator norms",
    "reshaped": "norms of reshaped kernels",
    "fft": "norms of circular convolutions",
}


def _spectral_keys(variant: str) -> dict[str, Key]:
    end, norms = SUFFIXES[variant], _NORMS[variant]
    product = f"sum of log squared {norms}"
    mean = f"log of d times the geometric mean of squared {norms}"
    keys = {
        f"log_product_spectral_over_margin{end}": log_key(f"{product} minus twice the log margin", INVARIANT),
        f"log_sum_spectral_over_margin{end}": log_key(f"log of d times the geometric mean of that, {norms}", INVARIANT),
        f"log_spectral_origin{end}": log_key(f"that product times Frobenius over spectral norms, {norms}", INVARIANT),
        f"log_spectral_initial{end}": log_key(f"the same with distances from the initial weights, {norms}", WEIGHTS),
        f"frobenius_over_spectral{end}": Key(
            "none", 0, math.inf, f"summed squares of Frobenius over {norms}", INVARIANT
        ),
    }
    if variant == "operator":
        return keys
    return {
        f"log_product_spectral{end}": log_key(product, FUNCTION),
        f"log_sum_spectral{end}": log_key(mean, FUNCTION),
        f"distance_spectral{end}": Key(
            "squared weights", 0, math.inf, f"summed squares of the changes, {norms}", WEIGHTS
        ),
        **keys,
    }


KEYS = {
    f"complexity/{name}": key
    for name, key in {
        "parameters": Key("weights", 0, math.inf, "number of weights without biases", INVARIANT),
        "inverse_margin": Key(
            "inverse squared logits", 0, math.inf, "1 over the squared 10 % quantile of the output margin", FUNCTION
        ),
        "log_product_frobenius_over_margin": log_key(
            "sum of log squared Frobenius norms minus twice the log margin", INVARIANT
        ),
        "log_sum_frobenius_over_margin": log_key("log of d times the geometric mean of that", INVARIANT),
        **{name: key for variant in VARIANTS for name, key in _spectral_keys(variant).items()},
    }.items()
}


def complexity(probe: Probe) -> Values:
    """Ratios and products of norms, over the margin, and with two other spectral norms of convolutions.

    W_i are the d folded weight tensors of linear, convolutional and embedding layers (see `norm`), W0_i the folded
    initial ones, |.|_F and |.|_2 their Frobenius and spectral norms, and g the 10 % quantile of the output margin.

    Keys `complexity/<name>`, with the rows of Dziugaite et al.:

    - `parameters`: the number of weights (row 20).
    - `inverse_margin`: 1 / g^2 (22).
    - `log_product_frobenius_over_margin`: sum log |W_i|_F^2 - 2 log g (36).
    - `log_sum_frobenius_over_margin`: log d + the same over d (38).
    - `log_product_spectral_over_margin`, `log_sum_spectral_over_margin`: both with spectral norms (31, 34).
    - `frobenius_over_spectral`: sum |W_i|_F^2 / |W_i|_2^2 (33).
    - `log_spectral_origin`: row 31 + log of row 33 (30).
    - `log_spectral_initial`: row 31 + log sum |W_i - W0_i|_F^2 / |W_i|_2^2 (29).

    Rows with a spectral norm take that of the operator that a convolution applies at its input size. Keys that end in
    `_reshaped` or `_fft` take another in every place (see `LayerNorms`), to compare with published numbers. These exist
    for rows 32, 35 and 41 too: `log_product_spectral`, `log_sum_spectral` and `distance_spectral`.

    Values are the measures themselves, v. Published tables give sqrt(v / n) for plain rows and (v - log n) / 2 for
    log rows, with n training samples. In a log-linear predictor with `train_samples` these add nothing, so that they
    have no keys.

    Rows with g are absent unless g > 0, rows with W0 where it is unknown. Cost: a few forwards of one example, three of
    eight, and the singular values of every kernel and of its Fourier transform; the forward of `fit` is shared.

    Raises:
        Undefined: `norm` is undefined.

    Reference: Jiang et al. 2020 (arXiv 1912.02178), rows as in Dziugaite et al. 2020 (arXiv 2010.11924).
    """
    layers = probe.cached(layer_norms)
    values: dict[str, Value] = {"complexity/parameters": float(sum(layer.weights for layer in layers))}
    for variant in VARIANTS:
        values |= plain_rows(layers, variant)
    if layers[0].change is None:
        unknown = Undefined(UNKNOWN_START)
        values |= {"complexity/distance_spectral*": unknown, "complexity/log_spectral_initial*": unknown}
    margin = log_margin(probe)
    if isinstance(margin, Undefined):
        absent = ("inverse_margin", "*_over_margin*", "log_spectral_origin*", "log_spectral_initial*")
        return values | {f"complexity/{name}": margin for name in absent}
    values["complexity/inverse_margin"] = math.exp(-2 * margin)
    product = math.fsum(math.log(layer.frobenius) for layer in layers)
    values |= product_and_sum("complexity", "frobenius_over_margin", product - 2 * margin, len(layers))
    for variant in VARIANTS:
        values |= rows_over_margin(layers, variant, margin)
    return values


def plain_rows(layers: Sequence[LayerNorms], variant: str) -> dict[str, float]:
    """The rows with spectral norms of one variant and without margin, but for those that other measures give."""
    end = SUFFIXES[variant]
    values = {f"complexity/frobenius_over_spectral{end}": _summed_ratios(layers, variant)}
    if not end:
        return values
    values |= product_and_sum("complexity", f"spectral{end}", _log_product(layers, variant), len(layers))
    changes = [layer.change.spectral[variant] for layer in layers if layer.change is not None]
    return values | ({f"complexity/distance_spectral{end}": math.fsum(changes)} if changes else {})


def rows_over_margin(layers: Sequence[LayerNorms], variant: str, margin: float) -> Values:
    """The rows with spectral norms of one variant over the margin; `margin` is its log."""
    end, product = SUFFIXES[variant], _log_product(layers, variant) - 2 * margin
    values: dict[str, Value] = {**product_and_sum("complexity", f"spectral_over_margin{end}", product, len(layers))}
    values[f"complexity/log_spectral_origin{end}"] = product + math.log(_summed_ratios(layers, variant))
    moved = [layer.change.frobenius / layer.spectral[variant] for layer in layers if layer.change is not None]
    if moved:
        total = math.fsum(moved)
        values[f"complexity/log_spectral_initial{end}"] = (
            product + math.log(total) if total > 0 else Undefined("nothing has moved")
        )
    return values


def _log_product(layers: Sequence[LayerNorms], variant: str) -> float:
    return math.fsum(math.log(layer.spectral[variant]) for layer in layers)


def _summed_ratios(layers: Sequence[LayerNorms], variant: str) -> float:
    return math.fsum(layer.frobenius / layer.spectral[variant] for layer in layers)
