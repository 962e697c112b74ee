"""Norms of the weights, and margins over them."""

from __future__ import annotations

import math

from lightning_gengap.measures.key import Key as KeyType
from lightning_gengap.measures.keys._old import Key


def _complexity() -> dict[str, KeyType]:
    logs = {
        "log_product_frobenius_over_margin": "sum of log squared Frobenius norms minus twice the log margin",
        "log_sum_frobenius_over_margin": "log of d times the geometric mean of that",
    }
    plain = {
        "parameters": ("weights", "number of weights without biases"),
        "inverse_margin": ("inverse squared logits", "1 over the squared 10 % quantile of the output margin"),
    }
    kinds = {"": "operator norms", "_reshaped": "norms of reshaped kernels", "_fft": "norms of circular convolutions"}
    for suffix, norms in kinds.items():
        product = f"sum of log squared {norms}"
        if suffix:
            logs[f"log_product_spectral{suffix}"] = product
            logs[f"log_sum_spectral{suffix}"] = f"log of d times the geometric mean of squared {norms}"
            plain[f"distance_spectral{suffix}"] = ("squared weights", f"summed squares of the changes, {norms}")
        logs[f"log_product_spectral_over_margin{suffix}"] = f"{product} minus twice the log margin"
        logs[f"log_sum_spectral_over_margin{suffix}"] = f"log of d times the geometric mean of that, {norms}"
        logs[f"log_spectral_origin{suffix}"] = f"that product times Frobenius over spectral norms, {norms}"
        logs[f"log_spectral_initial{suffix}"] = f"the same with distances from the initial weights, {norms}"
        plain[f"frobenius_over_spectral{suffix}"] = ("none", f"summed squares of Frobenius over {norms}")
    keys = {name: Key("log", -math.inf, math.inf, words, "complexity") for name, words in logs.items()}
    keys |= {name: Key(unit, 0, math.inf, words, "complexity") for name, (unit, words) in plain.items()}
    return {f"complexity/{name}": key for name, key in keys.items()}


def _products() -> dict[str, KeyType]:
    """Products of layers' norms, bounds on them, and path norms."""
    keys: dict[str, KeyType] = {}
    margin = "minus the log of the margin's 10 % quantile"
    for name, words in {
        "1_infinity": "largest l1 norms of a unit",
        "3_1.5": "(3, 1.5) group norms",
        "operator_1.5": "1.5-norms of the singular values",
        "trace": "trace norms",
    }.items():
        key, product = f"norm_product/log_{name}", f"sum over layers of the log of {words}"
        keys[key] = Key("log", -math.inf, math.inf, product, "norm_product")
        keys[f"{key}_over_margin"] = Key("log", -math.inf, math.inf, f"{product} {margin}", "norm_product")
    for name in ("1_infinity", "frobenius", "3_1.5", "spectral_2_1", "spectral_frobenius"):
        words = f"log of the {name} generalization bound without constants"
        keys[f"norm_product/log_bound_{name}"] = Key("log", -math.inf, math.inf, words, "norm_product")
    squares = "log of the sum over paths of squared weights"
    keys["path_norm/log"] = Key("log", -math.inf, math.inf, squares, "path_norm")
    over = "that minus twice the log of the margin's 10 % quantile"
    keys["path_norm/log_over_margin"] = Key("log", -math.inf, math.inf, over, "path_norm")
    for power in ("1", "1.5"):
        key, words = f"path_norm/log_{power}", f"log of the l{power} path norm"
        keys[key] = Key("log", -math.inf, math.inf, words, "path_norm")
        keys[f"{key}_over_margin"] = Key("log", -math.inf, math.inf, f"{words} {margin}", "path_norm")
    return keys


NORMS: dict[str, KeyType] = {
    "norm/log_product_spectral": Key("log", -math.inf, math.inf, "sum of log squared spectral norms", "norm"),
    "norm/log_product_frobenius": Key("log", -math.inf, math.inf, "sum of log squared Frobenius norms", "norm"),
    "norm/log_sum_spectral": Key("log", -math.inf, math.inf, "log of d times their geometric mean, spectral", "norm"),
    "norm/log_sum_frobenius": Key("log", -math.inf, math.inf, "log of d times their geometric mean, Frobenius", "norm"),
    "norm/spectral_change": Key("fraction", 0, 1, "last relative change of the power iteration", "norm"),
    **_products(),
    **_complexity(),
    "distance/frobenius": Key(
        "squared weights", 0, math.inf, "squared Frobenius distance from the initial weights", "distance"
    ),
    "distance/spectral": Key(
        "squared weights", 0, math.inf, "sum of squared spectral norms of the layers' changes", "distance"
    ),
    "distance/parameter_norm": Key("squared weights", 0, math.inf, "squared Frobenius norm of the weights", "distance"),
}
