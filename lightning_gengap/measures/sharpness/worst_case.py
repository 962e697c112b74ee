"""The largest rise of the loss in a box around the weights, by gradient ascent (Keskar et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_gengap.measures.norms.norm import NotFoldableError
from lightning_gengap.measures.sharpness.weight_noise import (
    TARGET_DROP,
    TOLERANCE,
    Fit,
    find_level,
    fit_at,
    largest_share,
)
from lightning_gengap.network.folding import Folded, folded
from lightning_gengap.network.probe import Probe

EPSILONS = {"sharpness": 1e-3, "sharpness_0.0005": 5e-4}
ASCENT_STEPS = 20
Box = Callable[[Tensor], Tensor]


def worst_case(probe: Probe) -> dict[str, float]:
    """Worst-case sharpness in Keskar's box, and the largest proportional box that the accuracy survives.

    The ascent starts at a seeded uniform point of the box and takes 20 signed steps, clipped to the box, on the loss
    over the whole probe; all parameters of the folded network are perturbed, on copies. Ascent finds a local
    maximum: the rise is a lower, the box an upper estimate.

    Keys `worst_case/sharpness`, 100 (max L(w + v) - L(w)) / (1 + L(w)) over |v_i| <= 0.001 (|w_i| + 1), no unit;
    `worst_case/sharpness_0.0005`, the same in half that box; `worst_case/alpha`, the largest a in (0, 2] with an
    accuracy drop up to 0.1 over |v_i| <= a |w_i|, by bisection to a drop of 0.1 +- 0.01 from the last value,
    `worst_case/alpha_drop`, the drop that was reached, `worst_case/alpha_censored`, 1 where the whole range costs less,
    and, where the drop is within the tolerance, `worst_case/flatness`, 1 / a^2. `alpha` is invariant to ReLU rescaling
    and to rescaling before batch norm, up to the ascent; Keskar's form only to the latter. Absent with one note where
    a batch norm cannot be folded; the proportional form while the accuracy is within the drop of a constant guess.
    Cost: 20 forwards and backwards for each of the first two; some 60 at first (300 at most) and 25 from a warm start
    for the third.
    References: Keskar et al. 2017 (arXiv 1609.04836), Jiang et al. 2020 (arXiv 1912.02178).
    """
    try:
        network = probe.cached(folded)
    except NotFoldableError as reason:
        probe.notes.append(f"worst_case/* is absent: {reason}")
        return {}
    clean = fit_at(probe, network.state)
    values = {}
    for name, epsilon in EPSILONS.items():
        worst = max((fit.loss for fit in ascent(probe, network, keskar_box(epsilon))), default=clean.loss)
        values[f"worst_case/{name}"] = 100 * (max(worst, clean.loss) - clean.loss) / (1 + clean.loss)
    if clean.accuracy <= largest_share(probe) + TARGET_DROP:
        probe.notes.append("worst_case/alpha is absent: the accuracy is not a tenth above that of a constant guess yet")
        return values
    start = probe.memory.get("worst_case/alpha")
    level = find_level(
        lambda alpha: largest_drop(probe, network, proportional_box(alpha), clean.accuracy),
        None if start is None else float(start),
    )
    probe.memory["worst_case/alpha"] = torch.tensor(level.value, dtype=torch.float64)
    values |= {"worst_case/alpha": level.value, "worst_case/alpha_drop": level.drop}
    values["worst_case/alpha_censored"] = float(level.censored)
    if level.found:
        values["worst_case/flatness"] = level.value**-2
    else:
        probe.notes.append("worst_case/flatness is absent: no box in reach costs a drop of 0.1 +- 0.01")
    return values


def keskar_box(epsilon: float) -> Box:
    """Half sides epsilon (|w| + 1)."""
    return lambda weight: epsilon * (weight.abs() + 1)


def proportional_box(alpha: float) -> Box:
    """Half sides alpha |w|."""
    return lambda weight: alpha * weight.abs()


def largest_drop(probe: Probe, network: Folded, box: Box, accuracy: float) -> float:
    """The largest accuracy drop that the ascent meets; it ends early beyond the target."""
    drop = 0.0
    for fit in ascent(probe, network, box):
        drop = max(drop, accuracy - fit.accuracy)
        if drop > TARGET_DROP + TOLERANCE:
            break
    return drop


def ascent(probe: Probe, network: Folded, box: Box) -> Iterator[Fit]:
    """Loss and accuracy along 20 steps of signed gradient ascent in a box, its start included.

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


def _fit_and_gradients(probe: Probe, network: Folded, weights: dict[str, Tensor]) -> tuple[Fit, dict[str, Tensor]]:
    """Loss, accuracy and the gradient of the loss at `weights`; a forward and a backward."""
    leaves = {name: weight.requires_grad_() for name, weight in weights.items()}
    gradients = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    loss = correct = count = 0.0
    for batch in probe.batches:
        logits = probe.logits_on(batch.content, len(batch.targets), network.state | leaves)
        targets = batch.targets.to(logits.device)
        total = cross_entropy(logits, targets, reduction="sum")
        for name, gradient in zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True):
            gradients[name] += gradient
        loss, count = loss + float(total.detach()), count + len(targets)
        correct += float((logits.detach().argmax(1) == targets).sum())
    return Fit(loss / count, correct / count), gradients
