"""How far the weights have moved from their initial values, and their own size, batch norm folded."""

from __future__ import annotations

import math

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.key import WEIGHTS, Key
from lightning_gengap.measures.norms.layer_norms import squared_frobenius
from lightning_gengap.measures.norms.spectral import spectral_norm
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.folding import UNKNOWN_START
from lightning_gengap.network.folding_check import checked, initial_layers
from lightning_gengap.network.probe import Probe


def _squared(meaning: str) -> Key:
    return Key("squared weights", 0, math.inf, meaning, WEIGHTS)


KEYS = {
    "distance/frobenius": _squared("squared Frobenius distance from the initial weights"),
    "distance/spectral": _squared("sum of squared spectral norms of the layers' changes"),
    "distance/parameter_norm": _squared("squared Frobenius norm of the weights"),
}


def distance(probe: Probe) -> Values:
    """Distance from initialisation and parameter norm of the folded weights W_i of the layers, as in `norm`.

    Keys: `distance/frobenius` is the sum of |W_i - W0_i|_F^2. `distance/spectral` is the sum of |W_i - W0_i|_2^2, a
    convolution's as the operator it applies at its input size. `distance/parameter_norm` is the sum of |W_i|_F^2.
    Both models are folded before they are compared.

    The two distances are absent where the initial weights are unknown. Cost: a few forwards of one example, and three
    of eight.

    Raises:
        Undefined: `norm` is undefined.

    Reference: rows 40 to 42 of Jiang et al. 2020 (arXiv 1912.02178).
    """
    layers, start = probe.cached(checked).layers, initial_layers(probe)
    values: dict[str, Value] = {
        "distance/parameter_norm": math.fsum(squared_frobenius(layer.weight) for layer in layers.values())
    }
    if start is None:
        unknown = Undefined(UNKNOWN_START)
        return values | {"distance/frobenius": unknown, "distance/spectral": unknown}
    moved = {name: layer.minus(start[name]) for name, layer in layers.items()}
    values["distance/frobenius"] = math.fsum(squared_frobenius(layer.weight) for layer in moved.values())
    values["distance/spectral"] = math.fsum(spectral_norm(layer, probe).value ** 2 for layer in moved.values())
    return values
