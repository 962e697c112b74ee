"""Accuracy on perturbed training images: same-class mixes, flips and shifts, input noise (after PGDL 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.errors import Undefined
from lightning_gengap.measures.key import INVARIANT, Key
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe

NOISE_LEVELS = (0.1, 0.3, 0.6)
COPIES_HELD = 4  # of all images, at most, beside the images themselves
COPIES = {"mix": "same-class half-half mixes", "augment": "flipped and shifted images"}
_NOISES = {f"noise_{level}": level for level in NOISE_LEVELS}


def _key(name: str) -> str:
    return f"perturbation/{name}_accuracy"


KEYS = {
    **{_key(name): Key("fraction", 0, 1, f"accuracy on {words}", INVARIANT) for name, words in COPIES.items()},
    **{
        _key(name): Key("fraction", 0, 1, f"accuracy under Gaussian input noise of {level} deviations", INVARIANT)
        for name, level in _NOISES.items()
    },
}


def perturbation(probe: Probe) -> Values:
    """Accuracy under three kinds of perturbation of image inputs.

    Keys: `perturbation/mix_accuracy` on half-half mixes of two samples of one class;
    `perturbation/augment_accuracy` after a random horizontal flip and a zero-padded shift of up to an eighth of the
    side; `perturbation/noise_<s>_accuracy` under Gaussian noise of s times each feature's standard deviation over the
    probe, for s in 0.1, 0.3, 0.6. Pairs, shifts and noise are drawn from the probe's seed, so they are the same at
    every measurement.

    Cost: five forward passes, one for each key that is wanted. Reference: Natekar and Sharma 2020 (arXiv 2012.02775).

    Raises:
        Undefined: the inputs are not images.
    """
    images = images_of(probe)
    generator = torch.Generator().manual_seed(probe.seed)
    # Mixes and copies are always drawn, in this order: what is drawn later depends on it.
    changed = chain(mixes_and_copies(images, probe.targets, generator), _noisy(probe, images, generator))
    return {_key(name): probe.accuracy_on(inputs, probe.targets) for name, inputs in changed if probe.wants(_key(name))}


def _noisy(probe: Probe, images: Tensor, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """The images under noise, level by level, where a level is wanted."""
    if any(probe.wants(_key(name)) for name in _NOISES):
        deviation = images.std(dim=0, correction=0)
        noise = torch.randn(images.shape, generator=generator).to(images)
        for name, level in _NOISES.items():
            yield name, (noise * (level * deviation)).add_(images)


def images_of(probe: Probe, least_side: int = 1) -> Tensor:
    """All images of the probe, shape (examples, channels, height, width), or undefined."""
    images = probe.inputs
    if images is None or images.ndim != 4:
        raise Undefined(_why_no_images(probe))
    if min(images.shape[2:]) < least_side:
        raise Undefined(f"the images are smaller than {least_side} x {least_side}")
    require_room(COPIES_HELD * images.numel() * images.element_size(), "changed copies of the images")
    return images


def _why_no_images(probe: Probe) -> str:
    reason = "the inputs are not images of one size"
    return reason if probe.no_inputs is None else f"{reason}: {probe.no_inputs}"


def mixes_and_copies(images: Tensor, targets: Tensor, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """The images mixed within their class, and flipped and shifted, by the names in `COPIES`, one after the other."""
    yield "mix", same_class_mixes(images, targets, generator)
    yield "augment", flipped_and_shifted(images, generator)


def same_class_mixes(images: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """Each image averaged with another of its class, or with itself where the class has no other; same shape."""
    partner = torch.arange(len(targets))
    for label in targets.unique():
        members = (targets == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        partner[members] = members.roll(1)
    return images[partner.to(images.device)].add_(images).div_(2)


def flipped_and_shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image flipped left to right with probability one half and shifted by up to an eighth of its side."""
    examples, _, height, width = images.shape
    reach_y, reach_x = height // 8, width // 8
    flip = torch.rand(examples, generator=generator) < 0.5
    down = torch.randint(-reach_y, reach_y + 1, (examples,), generator=generator)
    right = torch.randint(-reach_x, reach_x + 1, (examples,), generator=generator)
    moved = torch.empty_like(images)
    for place, (image, turn, y, x) in enumerate(zip(images, flip.tolist(), down.tolist(), right.tolist(), strict=True)):
        padded = pad(image.flip(2) if turn else image, (reach_x, reach_x, reach_y, reach_y))
        moved[place] = padded[:, reach_y + y : reach_y + y + height, reach_x + x : reach_x + x + width]
    return moved
