"""Log products and sums of the weight layers' Frobenius and spectral norms, batch norm folded (Neyshabur 2017)."""

from __future__ import annotations

import math

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.key import FUNCTION, NOTHING, Key
from lightning_gengap.measures.norms.layer_norms import log_key, product_and_sum, squared_frobenius
from lightning_gengap.measures.norms.spectral import spectral_norm
from lightning_gengap.measures.values import Values
from lightning_gengap.network.folding_check import checked
from lightning_gengap.network.probe import Probe

KEYS = {
    "norm/log_product_spectral": log_key("sum of log squared spectral norms", FUNCTION),
    "norm/log_product_frobenius": log_key("sum of log squared Frobenius norms", FUNCTION),
    "norm/log_sum_spectral": log_key("log of d times their geometric mean, spectral", FUNCTION),
    "norm/log_sum_frobenius": log_key("log of d times their geometric mean, Frobenius", FUNCTION),
    "norm/spectral_change": Key("fraction", 0, 1, "bound of the spectral norms' relative error", NOTHING),
}


def norm(probe: Probe) -> Values:
    """Norms of the folded weights W_i of the linear, convolutional and embedding layers, d of them.

    Keys: `norm/log_product_spectral` and `norm/log_product_frobenius` are the sum of log |W_i|^2.
    `norm/log_sum_spectral` and `norm/log_sum_frobenius` are log d + the mean of log |W_i|^2, the log of d times the
    geometric mean. `norm/spectral_change` bounds the relative error of every spectral norm, (|W_i|_2 - value) over
    |W_i|_2. The norms of convolutions, and of dense layers above some 2,700 inputs and outputs, are approached from
    below, from a random start, and stop at 1e-4 or after 50 products. The bound fails for one start in 10,000.

    A convolution's spectral norm is that of the operator it applies at its input size, zero padding included. It is
    not that of the reshaped kernel. An embedding of integer inputs counts as the linear map of one-hot vectors.

    Cost: a few forwards of one example, and three of eight.

    Raises:
        Undefined: a scale would be missing. So it is where a parameterised layer is none of these nor a batch norm
            right behind one of its own; where the folded layers, run in place of the network's on up to 8 samples, do
            not give its logits; with embedded positions, attention, or normalisation by the samples' own statistics.
            Or memory does not suffice.

    Reference: rows 30 to 39 of Jiang et al. 2020 (arXiv 1912.02178).
    """
    log_spectral, log_frobenius, largest_error = [], [], 0.0
    for layer in probe.cached(checked).layers.values():
        spectral, error = spectral_norm(layer, probe)
        log_spectral.append(2 * _log(spectral))
        log_frobenius.append(_log(squared_frobenius(layer.weight)))
        largest_error = max(largest_error, error)
    if not all(map(math.isfinite, log_spectral + log_frobenius)):
        raise Undefined("a weight layer is zero or not finite")
    values = {"norm/spectral_change": largest_error}
    for kind, logs in (("spectral", log_spectral), ("frobenius", log_frobenius)):
        values |= product_and_sum("norm", kind, math.fsum(logs), len(logs))
    return values


def _log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan
