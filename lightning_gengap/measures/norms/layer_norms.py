"""Norms of every weight layer, batch norm folded: what the measures built on norms add, multiply and divide."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.key import Invariances, Key
from lightning_gengap.measures.margins.fit import clean_logits
from lightning_gengap.measures.margins.margin_metrics import logit_gap
from lightning_gengap.measures.norms.spectral import circular_norm, matrix_norm, spectral_norm
from lightning_gengap.network.folding_check import checked, initial_layers
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.weight_layers import WeightLayer

MARGIN_QUANTILE = 0.1
VARIANTS = ("operator", "reshaped", "fft")


@dataclass(frozen=True)
class LayerNorms:
    """Squared norms of a layer's folded weights, and of their change from the folded initial weights, where known.

    The spectral norm has three variants, which are never mixed. `operator`: that of the map a convolution applies at
    its input size, zero padding and stride included. `reshaped`: the largest singular value of the weights as a matrix
    of outputs by everything else, no operator norm of a convolution. `fft`: that of the convolution at its input size
    with circular padding and stride one. For dense layers all three are one number.
    """

    weights: int
    frobenius: float
    spectral: dict[str, float]
    change: LayerNorms | None = None


def layer_norms(probe: Probe) -> tuple[LayerNorms, ...]:
    """The norms of all weight layers; take it through `probe.cached`."""
    start = initial_layers(probe)
    found = []
    for name, layer in nonzero_layers(probe).items():
        change = None if start is None else _norms_of(layer.minus(start[name]), probe)
        found.append(_norms_of(layer, probe, change))
    return tuple(found)


def nonzero_layers(probe: Probe) -> dict[str, WeightLayer]:
    """The network's weight layers by name, folded and checked; undefined where one is zero or not finite."""
    layers = probe.cached(checked).layers
    for layer in layers.values():
        if not (bool(layer.weight.isfinite().all()) and bool(layer.weight.any())):
            raise Undefined("a weight layer is zero or not finite")
    return layers


def log_margin(probe: Probe) -> float | Undefined:
    """Log of the 10 % quantile of the output margin; undefined unless that is positive."""
    margin = float(logit_gap(probe.cached(clean_logits), probe.targets).quantile(MARGIN_QUANTILE))
    return math.log(margin) if margin > 0 else Undefined("the 10 % quantile of the margin is not positive")


def log_key(meaning: str, invariances: Invariances) -> Key:
    """The key of a logarithm of norms."""
    return Key("log", -math.inf, math.inf, meaning, invariances)


def product_and_sum(measure: str, name: str, product: float, count: int) -> dict[str, float]:
    """The log of a product over `count` layers, and the log of `count` times its geometric mean, by key."""
    return {
        f"{measure}/log_product_{name}": product,
        f"{measure}/log_sum_{name}": math.log(count) + product / count,
    }


def squared_frobenius(weight: Tensor) -> float:
    """Sum of squares, in float64."""
    return float(weight.cpu().double().square().sum())


def _norms_of(layer: WeightLayer, probe: Probe, change: LayerNorms | None = None) -> LayerNorms:
    operator = spectral_norm(layer, probe).value
    spectral = {"operator": operator**2, "reshaped": matrix_norm(layer) ** 2, "fft": circular_norm(layer) ** 2}
    return LayerNorms(layer.weight.numel(), squared_frobenius(layer.weight), spectral, change)
