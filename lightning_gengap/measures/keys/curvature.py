"""The per-sample gradients of the loss."""

from __future__ import annotations

import math

from lightning_gengap.measures.key import Key as KeyType
from lightning_gengap.measures.keys._old import Key

CURVATURE: dict[str, KeyType] = {
    "gradient_noise/trace": Key(
        "squared nats per squared weight", 0, math.inf, "summed variance of per-sample gradients", "gradient_noise"
    ),
    "gradient_noise/signal": Key(
        "none", 0, math.inf, "mean of squared mean over variance of per-sample gradients", "gradient_noise"
    ),
    "gradient_noise/curvature": Key(
        "nats per squared weight", 0, math.inf, "trace of the Gauss-Newton matrix, estimated", "gradient_noise"
    ),
    "gradient_noise/criterion": Key(
        "nats", 0, math.inf, "gradient variance over samples times Gauss-Newton trace", "gradient_noise"
    ),
}
