"""Expected rise of the loss under noise on the weights, paired with the KL of that noise (Neyshabur et al. 2017)."""

from __future__ import annotations

from torch import Tensor

from lightning_gengap.measures.norms.norm import NotFoldableError
from lightning_gengap.measures.sharpness.weight_noise import (
    Deviation,
    affine,
    draws,
    fit_at,
    fit_under_noise,
    proportional,
)
from lightning_gengap.network.folding import folded, folded_initial
from lightning_gengap.network.probe import Probe

ALPHAS = (0.001, 0.003, 0.01)
RHOS = (0.05, 0.1, 0.2)
DRAWS = 5


def sharpness(probe: Probe) -> dict[str, float]:
    """Expected sharpness and KL at three noise levels, and adaptive sharpness at three.

    All parameters of the folded network are perturbed, on copies, with the same draws at every measurement.

    Keys `sharpness/expected_<a>`, E_v L(w + v) - L(w) for v_i of standard deviation s_i = a (10 |w_i| + 1), a in
    0.001, 0.003, 0.01, and `sharpness/expected_<a>_drop`, the drop of the accuracy; `sharpness/kl_<a>`, the KL of that
    posterior from the prior of the same deviations at zero, sum w_i^2 / (2 s_i^2); `sharpness/kl_initial_<a>`, the
    same from a prior at the initial weights (absent where they are unknown). Read as pairs: sharpness alone depends on
    the weights' scale. `sharpness/adaptive_<r>` and `sharpness/adaptive_<r>_drop`, rise of the loss and drop of the
    accuracy for s_i = r |w_i|, r in 0.05, 0.1, 0.2: no KL is paired with these, as from zero it would be the constant
    P / (2 r^2). More levels, draws and forms of them: `adaptive_sharpness`.

    Losses in nats (slightly negative by noise at times), accuracies as fractions, KL in nats. The adaptive forms are
    invariant to ReLU rescaling and to rescaling before batch norm, the accuracy drop also to a scaling of the
    logits; the others only to rescaling before batch norm. Absent, with one note, where a batch norm cannot be
    folded. Cost: 31 forward passes. References: Neyshabur et al. 2017 (arXiv 1706.08947), Andriushchenko et al. 2023
    (arXiv 2302.07011).
    """
    try:
        network, initial = probe.cached(folded), probe.cached(folded_initial)
    except NotFoldableError as reason:
        probe.notes.append(f"sharpness/* is absent: {reason}")
        return {}
    seeds, clean = draws(probe.seed, DRAWS), fit_at(probe, network.state)
    values: dict[str, float] = {}
    origin = {name: weight.new_zeros(()) for name, weight in network.parameters.items()}
    for alpha in ALPHAS:
        under_noise = fit_under_noise(probe, network, affine(alpha), seeds)
        values[f"sharpness/expected_{alpha}"] = under_noise.loss - clean.loss
        values[f"sharpness/expected_{alpha}_drop"] = clean.accuracy - under_noise.accuracy
        values[f"sharpness/kl_{alpha}"] = divergence(network.parameters, origin, affine(alpha))
        if initial is not None:
            values[f"sharpness/kl_initial_{alpha}"] = divergence(network.parameters, initial.state, affine(alpha))
    for rho in RHOS:
        under_noise = fit_under_noise(probe, network, proportional(rho), seeds)
        values[f"sharpness/adaptive_{rho}"] = under_noise.loss - clean.loss
        values[f"sharpness/adaptive_{rho}_drop"] = clean.accuracy - under_noise.accuracy
    return values


def divergence(parameters: dict[str, Tensor], centre: dict[str, Tensor], deviation: Deviation) -> float:
    """KL of N(w, diag s^2) from N(c, diag s^2), sum (w - c)^2 / (2 s^2), in nats, with s the deviation at w."""
    total = 0.0
    for name, weight in parameters.items():
        weight = weight.double()
        moved = (weight - centre[name].to(weight)) / deviation(weight)
        total += float(moved.square().sum()) / 2
    return total
