"""Normalized margins of perturbed training images at the first weight layer's output (after PGDL 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gengap.measures.difficulty.separability import first_layer
from lightning_gengap.measures.margins.margin import logit_gap
from lightning_gengap.measures.perturbation.perturbation import flipped_and_shifted, same_class_mixes
from lightning_gengap.network.layers import CalledModule, Tap
from lightning_gengap.network.probe import Probe

TRIMMED = 0.05  # of the features at either end, by their variance


def perturbed_margin(probe: Probe) -> dict[str, float]:
    """Mean and median normalized margin of same-class mixes and of flipped and shifted images.

    The margin of a perturbed image x' of label y is d / TV: d the signed distance to the boundary between y and the
    largest other logit, logit gap over the norm of the gap's gradient by the output of the first linear or
    convolutional layer; TV the square root of the mean variance of that output's features over the perturbed images,
    the 5 % of the features with the largest and with the smallest variance left out. Misclassified images stay, with
    negative margins. The norm is guarded at the round-off of its median; images where no gradient arrives are left out.

    Keys `perturbed_margin/mix_mean` and `..._median` (half-half mixes of two samples of one class),
    `perturbed_margin/augment_mean` and `..._median` (random flip, and shift up to an eighth of the side): the
    perturbed images of `perturbation`, fixed by the probe's seed. No unit, signed, unbounded, larger for wider
    margins; the published score is minus the mean. Invariant to a scaling of the logits, to ReLU rescaling and to
    rescaling before a batch norm. A model trained on such mixes or shifts has seen them. Absent, with a note, for
    inputs that are not images. Cost: two forwards and two activation-only backwards, five to seven forwards. Reference:
    Natekar and Sharma 2020 (arXiv 2012.02775).
    """
    images, first = probe.inputs, first_layer(probe)
    if images is None or images.ndim != 4 or first is None:
        probe.notes.append("perturbed_margin/* is absent: it needs image inputs and a linear or convolutional layer")
        return {}
    generator = torch.Generator().manual_seed(probe.seed)
    mixes = same_class_mixes(images, probe.targets, generator)
    augmented = flipped_and_shifted(images, generator)
    values: dict[str, float] = {}
    for name, perturbed in {"mix": mixes, "augment": augmented}.items():
        margins = margins_of(probe, first, perturbed)
        if len(margins) == 0:
            probe.notes.append(f"perturbed_margin/{name}_* is absent: outputs or gradients at {first.module} vanish")
            continue
        values[f"perturbed_margin/{name}_mean"] = float(margins.mean())
        values[f"perturbed_margin/{name}_median"] = float(margins.quantile(0.5))
    return values


def margins_of(probe: Probe, layer: CalledModule, inputs: Tensor) -> Tensor:
    """Signed normalized margins at the layer's output, with all inputs exchanged for `inputs`; float64, on the CPU.

    Empty where the output does not vary, has not the examples on its first axis, or no gradient reaches it.
    """
    tap = Tap("first", layer.module, "output", clone=True)
    gaps, norms, start = [], [], 0
    moments = Moments()
    for batch in probe.batches:
        stop = start + len(batch.targets)
        with probe.tapped([tap]) as caught:
            logits = probe.logits_on(batch.with_inputs(inputs[start:stop]), stop - start)
        output = caught.get(tap.layer)
        gap = logit_gap(logits, batch.targets.to(logits.device))
        start = stop
        if output is None or len(output) != len(gap) or not gap.requires_grad:
            return torch.empty(0)
        (gradient,) = torch.autograd.grad(gap.sum(), output, allow_unused=True)
        if gradient is None:
            return torch.empty(0)
        gaps.append(gap.detach().cpu().double())
        norms.append(gradient.flatten(1).cpu().double().norm(dim=1))
        moments.add(output.detach().flatten(1).cpu().double())
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
        """Shape (features,), ddof 0."""
        mean = self._sum / self._count
        return (self._squares / self._count - mean.square()).clamp(min=0)
