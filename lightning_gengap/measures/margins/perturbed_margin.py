"""Normalized margins of perturbed training images at the first weight layer's output (after PGDL 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm

from lightning_gengap.derivatives.weights import require_room_for_graph
from lightning_gengap.errors import Undefined
from lightning_gengap.measures.activations import first_weight_layer
from lightning_gengap.measures.key import INVARIANT, Key
from lightning_gengap.measures.margins.margin_metrics import logit_gap
from lightning_gengap.measures.perturbation.perturbation import COPIES, Changed, images_of, mixes_and_copies
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.layers import Tap
from lightning_gengap.network.probe import Probe

ROWS = 64  # outputs that are worked on at once in float64
TRIMMED = 0.05  # of the features at either end, by their variance
KEYS = {
    f"perturbed_margin/{kind}_{statistic}": Key(
        "none",
        -math.inf,
        math.inf,
        f"{statistic} normalized margin of {words} at the first layer",
        INVARIANT,
    )
    for kind, words in COPIES.items()
    for statistic in ("mean", "median")
}


def perturbed_margin(probe: Probe) -> Values:
    """Mean and median normalized margin of same-class mixes and of flipped and shifted images.

    The margin of a perturbed image x' of label y is d / TV, at the output of the first linear or convolutional layer.
    d is the signed distance to the boundary between y and the largest other logit: the logit gap over the norm of its
    gradient by that output. TV is the square root of the mean variance of that output's features over the perturbed
    images, without the 5 % of the features with the largest and with the smallest variance. Misclassified images stay,
    with negative margins. The norm is guarded at the round-off of its median; images where no gradient arrives are left
    out.

    Keys `perturbed_margin/mix_mean` and `..._median`, `perturbed_margin/augment_mean` and `..._median`. The perturbed
    images are those of `perturbation`, fixed by the probe's seed. Values are larger for wider margins; the published
    score is minus the mean. A model trained on such mixes or shifts has seen them.

    Cost: two forwards and two backwards through the activations only, worth five to seven forwards. Reference: Natekar
    and Sharma 2020 (arXiv 2012.02775).

    Raises:
        Undefined: the inputs are not images, or no linear or convolutional layer is called. A kind of image is absent
            where outputs or gradients vanish at that layer.
    """
    images, first = images_of(probe), first_weight_layer(probe)
    require_room_for_graph(probe, max(probe.sizes))
    generator = torch.Generator().manual_seed(probe.seed)
    values: dict[str, Value] = {}
    for name, perturbed in mixes_and_copies(images, probe.targets, generator).items():
        margins = margins_of(probe, first, perturbed)
        if len(margins) == 0:
            values[f"perturbed_margin/{name}_*"] = Undefined(f"outputs or gradients at {first.module} vanish")
            continue
        values[f"perturbed_margin/{name}_mean"] = float(margins.mean())
        values[f"perturbed_margin/{name}_median"] = float(margins.quantile(0.5))
    return values


def margins_of(probe: Probe, tap: Tap, inputs: Changed) -> Tensor:
    """Signed normalized margins at the tap, with the inputs of each batch exchanged; float64, on the CPU.

    Empty where the tapped output does not vary or has not the examples on its first axis, or no gradient reaches it.
    """
    gaps, norms, moments = [], [], Moments()
    for place, batch in enumerate(probe.batches):
        with probe.tapped([tap]) as caught:
            logits = probe.logits_on(batch.with_inputs(inputs(place)), len(batch.targets))
        output = caught.get(tap.layer)
        gap = logit_gap(logits, batch.targets.to(logits.device))
        if output is None or len(output) != len(gap) or not gap.requires_grad:
            return torch.empty(0)
        (gradient,) = torch.autograd.grad(gap.sum(), output, allow_unused=True)
        if gradient is None:
            return torch.empty(0)
        gaps.append(gap.detach().cpu().double())
        for rows in gradient.reshape(len(gradient), -1).cpu().split(ROWS):
            norms.append(vector_norm(rows, dim=1, dtype=torch.float64))
        for rows in output.detach().reshape(len(output), -1).cpu().split(ROWS):
            moments.add(rows.double())
    gap, norm, spread = torch.cat(gaps), torch.cat(norms), trimmed_mean(moments.variance()).sqrt()
    reached = norm > 0
    if spread == 0 or not bool(reached.any()):
        return torch.empty(0)
    gap, norm = gap[reached], norm[reached]
    guard = torch.finfo(torch.float32).eps * norm.square().median()
    return gap / (norm.square() + guard).sqrt() / spread


def trimmed_mean(values: Tensor) -> Tensor:
    """Mean without the smallest and the largest 5 %."""
    cut = int(TRIMMED * len(values))
    return values.sort().values[cut : len(values) - cut].mean()


class Moments:
    """The variance of every feature, over batches; sums are taken about the first batch's mean, so none cancels."""

    def __init__(self) -> None:
        self._origin: Tensor | None = None
        self._count = 0

    def add(self, rows: Tensor) -> None:
        """Add a batch, shape (examples, features)."""
        if self._origin is None:
            self._origin = rows.mean(dim=0)
            self._sum, self._squares = torch.zeros_like(self._origin), torch.zeros_like(self._origin)
        centred = rows - self._origin
        self._sum += centred.sum(dim=0)
        self._squares += centred.square().sum(dim=0)
        self._count += len(rows)

    def variance(self) -> Tensor:
        """Shape (features,), not corrected for the mean (ddof 0)."""
        mean = self._sum / self._count
        return (self._squares / self._count - mean.square()).clamp(min=0)
