"""The largest rise of the loss in a box around the weights, by gradient ascent (Keskar et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.key import OPEN, WEIGHTS, YES, Invariances, Key
from lightning_gengap.measures.sharpness.level_search import TARGET_DROP, TOLERANCE, search
from lightning_gengap.measures.sharpness.weight_noise import Deviation, Fit, fit_at, fit_of, losses, proportional
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.folding import FoldedNetwork, folded
from lightning_gengap.network.probe import Probe

EPSILONS = {"sharpness": 1e-3, "sharpness_0.0005": 5e-4}
ASCENT_STEPS = 20
_ASCENT = Invariances(OPEN, YES, YES)

KEYS = {
    "worst_case/sharpness": Key("none", 0, math.inf, "100 (worst loss in the 0.001 box - loss) / (1 + loss)", WEIGHTS),
    "worst_case/sharpness_0.0005": Key("none", 0, math.inf, "the same in the 0.0005 box", WEIGHTS),
    "worst_case/alpha": Key("none", 0, 2, "relative box whose worst point costs 0.1 of the accuracy", _ASCENT),
    "worst_case/alpha_drop": Key("fraction", 0, 1, "accuracy drop reached in that box", _ASCENT),
    "worst_case/alpha_censored": Key("0 or 1", 0, 1, "1: the box is at least that, the range's end", _ASCENT),
    "worst_case/flatness": Key("none", 0, math.inf, "1 / alpha^2", _ASCENT),
}


def worst_case(probe: Probe) -> Values:
    """Worst-case sharpness in Keskar's box, and the largest proportional box that the accuracy survives.

    The ascent starts at a seeded uniform point of the box and takes 20 signed steps, clipped to the box, on the loss
    over the whole probe. All parameters of the folded network move, on copies. Ascent finds a local maximum: the rise
    is a lower, the box an upper estimate.

    Keys: `worst_case/sharpness` is 100 (max L(w + v) - L(w)) / (1 + L(w)) over |v_i| <= 0.001 (|w_i| + 1), and
    `worst_case/sharpness_0.0005` the same in half that box. `worst_case/alpha` is the largest a in (0, 2] with an
    accuracy drop up to 0.1 over |v_i| <= a |w_i|, by bisection to a drop of 0.1 +- 0.01 from the last value.
    `worst_case/alpha_drop` is the drop that was reached, and `worst_case/alpha_censored` is 1 where the whole range
    costs less. `worst_case/flatness` is 1 / a^2; it exists where the drop is within the tolerance.

    `alpha` and what follows it are absent while the accuracy is within the drop of a constant guess. Cost: 20 forwards
    and backwards for each of the first two; for the third some 60 at first (300 at most) and 25 from a warm start.

    Raises:
        Undefined: a batch norm cannot be folded.

    References: Keskar et al. 2017 (arXiv 1609.04836), Jiang et al. 2020 (arXiv 1912.02178).
    """
    network = probe.cached(folded)
    clean = fit_at(probe, network.state)
    values: dict[str, Value] = {}
    for name, epsilon in EPSILONS.items():
        worst = max(fit.loss for fit in ascent(probe, network, keskar_box(epsilon)))
        values[f"worst_case/{name}"] = 100 * (max(worst, clean.loss) - clean.loss) / (1 + clean.loss)

    def drop(alpha: float) -> float:
        return largest_drop(probe, network, proportional(alpha), clean.accuracy)

    try:
        level = search(probe, "worst_case/alpha", clean.accuracy, drop)
    except Undefined as undefined:
        return values | {"worst_case/alpha*": undefined, "worst_case/flatness": undefined}
    values |= level.values("worst_case/alpha")
    not_found = Undefined("no box in reach costs a drop of 0.1 +- 0.01")
    return values | {"worst_case/flatness": level.value**-2 if level.found else not_found}


def keskar_box(epsilon: float) -> Deviation:
    """Half sides epsilon (|w| + 1)."""
    return lambda weight: epsilon * (weight.abs() + 1)


def largest_drop(probe: Probe, network: FoldedNetwork, box: Deviation, accuracy: float) -> float:
    """The largest accuracy drop that the ascent meets; it ends early beyond the target."""
    drop = 0.0
    for fit in ascent(probe, network, box):
        drop = max(drop, accuracy - fit.accuracy)
        if drop > TARGET_DROP + TOLERANCE:
            break
    return drop


def ascent(probe: Probe, network: FoldedNetwork, box: Deviation) -> Iterator[Fit]:
    """Loss and accuracy along 20 steps of signed gradient ascent in a box of these half sides, its start included.

    Steps shrink from half to a tenth of the half sides; the sign makes the ascent independent of the loss's scale.
    """
    generator = torch.Generator().manual_seed(probe.seed)
    weights = network.parameters
    sides = {name: box(weight) for name, weight in weights.items()}
    moves = {
        name: side * (2 * torch.rand(side.shape, generator=generator).to(side) - 1) for name, side in sides.items()
    }
    for step in range(ASCENT_STEPS):
        fit, gradients = _fit_and_gradients(probe, network, {name: weights[name] + moves[name] for name in weights})
        yield fit
        length = 0.5 - 0.4 * step / (ASCENT_STEPS - 1)
        for name, side in sides.items():
            moves[name] = (moves[name] + length * side * gradients[name].sign()).clamp(-side, side)
    yield fit_at(probe, network.state | {name: weights[name] + moves[name] for name in weights})


def _fit_and_gradients(
    probe: Probe, network: FoldedNetwork, weights: dict[str, Tensor]
) -> tuple[Fit, dict[str, Tensor]]:
    """Loss, accuracy and the gradient of the loss at `weights`; a forward and a backward."""
    leaves = {name: weight.requires_grad_() for name, weight in weights.items()}
    gradients = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    found = []
    for entropies, right in losses(probe, network.state | leaves):
        for name, gradient in zip(leaves, torch.autograd.grad(entropies.sum(), list(leaves.values())), strict=True):
            gradients[name] += gradient
        found.append((entropies.detach(), right))
    return fit_of(found), gradients
