"""Expected rise of the loss under noise on the weights, paired with the KL of that noise (Neyshabur et al. 2017)."""

from __future__ import annotations

import math

from torch import Tensor

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.key import FUNCTION, INVARIANT, OPEN, WEIGHTS, YES, Invariances, Key
from lightning_gengap.measures.sharpness.weight_noise import (
    Deviation,
    affine,
    draws,
    fit_at,
    fit_under_noise,
    proportional,
)
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.folding import UNKNOWN_START, folded, folded_initial
from lightning_gengap.network.probe import Probe

ALPHAS = (0.001, 0.003, 0.01)
RHOS = (0.05, 0.1, 0.2)
DRAWS = 5


def _keys() -> dict[str, Key]:
    keys: dict[str, Key] = {}
    coarse = Invariances(OPEN, OPEN, YES)  # a share of few samples under noise of fixed size
    for alpha in ALPHAS:
        noise = f"under weight noise {alpha} (10 |w| + 1)"
        keys |= {
            f"sharpness/expected_{alpha}": Key("nats", -math.inf, math.inf, f"rise of the loss {noise}", WEIGHTS),
            f"sharpness/expected_{alpha}_drop": Key("fraction", -1, 1, f"drop of the accuracy {noise}", coarse),
            f"sharpness/kl_{alpha}": Key("nats", 0, math.inf, f"divergence from zero {noise}", WEIGHTS),
            f"sharpness/kl_initial_{alpha}": Key(
                "nats", 0, math.inf, f"divergence from the initial weights {noise}", WEIGHTS
            ),
        }
    for rho in RHOS:
        noise = f"under weight noise {rho} |w|"
        keys |= {
            f"sharpness/adaptive_{rho}": Key("nats", -math.inf, math.inf, f"rise of the loss {noise}", FUNCTION),
            f"sharpness/adaptive_{rho}_drop": Key("fraction", -1, 1, f"drop of the accuracy {noise}", INVARIANT),
        }
    return keys


KEYS = _keys()


def sharpness(probe: Probe) -> Values:
    """Expected sharpness and KL at three noise levels, and adaptive sharpness at three.

    Noise is put on all parameters of the folded network, on copies, with the same draws at every measurement.

    Keys: `sharpness/expected_<a>` is E_v L(w + v) - L(w) for normal v_i of standard deviation s_i = a (10 |w_i| + 1), a
    in 0.001, 0.003, 0.01, and `sharpness/expected_<a>_drop` the drop of the accuracy. `sharpness/kl_<a>` is the KL of
    that noise from noise of the same s around zero, sum w_i^2 / (2 s_i^2), and `sharpness/kl_initial_<a>` that from
    noise around the initial weights. A rise is to be read with its KL: alone it depends on the weights' scale.
    `sharpness/adaptive_<r>` and `sharpness/adaptive_<r>_drop` are the rise and the drop for s_i = r |w_i|, r in 0.05,
    0.1, 0.2. No KL is paired with these: from zero it would be the constant P / (2 r^2). More levels, draws and forms
    of them: `adaptive_sharpness`.

    `sharpness/kl_initial_<a>` is absent where the initial weights are unknown. Cost: 31 forward passes.

    Raises:
        Undefined: a batch norm cannot be folded.

    References: Neyshabur et al. 2017 (arXiv 1706.08947), Andriushchenko et al. 2023 (arXiv 2302.07011).
    """
    network, initial = probe.cached(folded), probe.cached(folded_initial)
    seeds, clean = draws(probe.seed, DRAWS), fit_at(probe, network.state)
    values: dict[str, Value] = {}
    origin = {name: weight.new_zeros(()) for name, weight in network.parameters.items()}
    for alpha in ALPHAS:
        under_noise = fit_under_noise(probe, network, affine(alpha), seeds)
        values |= clean.rise_to(under_noise, f"sharpness/expected_{alpha}")
        values[f"sharpness/kl_{alpha}"] = divergence(network.parameters, origin, affine(alpha))
        if initial is not None:
            values[f"sharpness/kl_initial_{alpha}"] = divergence(network.parameters, initial.state, affine(alpha))
    if initial is None:
        values["sharpness/kl_initial_*"] = Undefined(UNKNOWN_START)
    for rho in RHOS:
        under_noise = fit_under_noise(probe, network, proportional(rho), seeds)
        values |= clean.rise_to(under_noise, f"sharpness/adaptive_{rho}")
    return values


def divergence(parameters: dict[str, Tensor], centre: dict[str, Tensor], deviation: Deviation) -> float:
    """KL of N(w, diag s^2) from N(c, diag s^2), sum (w - c)^2 / (2 s^2), in nats, with s the deviation at w."""
    total = 0.0
    for name, weight in parameters.items():
        weight = weight.cpu().double()
        moved = (weight - centre[name].cpu().double()) / deviation(weight)
        total += float(moved.square().sum()) / 2
    return total
