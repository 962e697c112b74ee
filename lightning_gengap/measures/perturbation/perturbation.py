"""Accuracy on perturbed training images: same-class mixes, flips and shifts, input noise (after PGDL 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_gengap.network.probe import Probe

NOISE_LEVELS = (0.1, 0.3, 0.6)


def perturbation(probe: Probe) -> dict[str, float]:
    """Accuracy under three kinds of perturbation of image inputs; absent for inputs that are not images.

    Keys `perturbation/mix_accuracy` (half-half mixes of two samples of one class), `.../augment_accuracy` (random
    horizontal flip and zero-padded shift up to an eighth of the side) and `.../noise_<s>_accuracy` (Gaussian noise
    of s times each feature's standard deviation over the probe, s in 0.1, 0.3, 0.6). Fractions. Pairs, shifts and
    noise are drawn from the probe's seed, the same at every measurement. Invariant to a scaling of the logits and
    to ReLU rescaling. Cost: five forward passes, one for each key that is wanted. Reference: Natekar and Sharma 2020
    (arXiv 2012.02775).
    """
    images = probe.inputs
    if images is None or images.ndim != 4:
        probe.notes.append("perturbation/* is absent: the inputs are not images of one size")
        return {}
    generator = torch.Generator().manual_seed(probe.seed)
    # Mixes and copies are always drawn, in this order: what is drawn later depends on it.
    changed = {
        "mix": same_class_mixes(images, probe.targets, generator),
        "augment": flipped_and_shifted(images, generator),
    }
    noises = {f"noise_{level}": level for level in NOISE_LEVELS}
    if any(probe.wants(_key(name)) for name in noises):
        deviation = images.std(dim=0, correction=0)
        noise = torch.randn(images.shape, generator=generator).to(images)
        changed |= {name: images + level * deviation * noise for name, level in noises.items()}
    return {
        _key(name): probe.accuracy_on(inputs, probe.targets)
        for name, inputs in changed.items()
        if probe.wants(_key(name))
    }


def _key(name: str) -> str:
    return f"perturbation/{name}_accuracy"


def same_class_mixes(images: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """Each image averaged with another of its class (itself where the class has no other); same shape."""
    partner = torch.arange(len(targets))
    for label in targets.unique():
        members = (targets == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        partner[members] = members.roll(1)
    return (images + images[partner.to(images.device)]) / 2


def flipped_and_shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image flipped left to right with probability one half and shifted by up to an eighth of its side."""
    examples, _, height, width = images.shape
    reach_y, reach_x = height // 8, width // 8
    flip = torch.rand(examples, generator=generator) < 0.5
    down = torch.randint(-reach_y, reach_y + 1, (examples,), generator=generator)
    right = torch.randint(-reach_x, reach_x + 1, (examples,), generator=generator)
    flipped = torch.where(flip.to(images.device)[:, None, None, None], images.flip(3), images)
    padded = pad(flipped, (reach_x, reach_x, reach_y, reach_y))
    shifted = [
        image[:, reach_y + y : reach_y + y + height, reach_x + x : reach_x + x + width]
        for image, y, x in zip(padded, down.tolist(), right.tolist(), strict=True)
    ]
    return torch.stack(shifted)
