"""Accuracy on perturbed training images: same-class mixes, flips and shifts, input noise (after PGDL 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.errors import Undefined, frameless
from lightning_gengap.measures.key import INVARIANT, Key
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.probe import Probe

NOISE_LEVELS = (0.1, 0.3, 0.6)
Changed = Callable[[int], Tensor]  # makes the changed images of a batch, by its place: all are more than memory holds
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

    Changed images are made batch by batch, the noise for all of them together.

    Cost: five forward passes, one for each key that is wanted. Reference: Natekar and Sharma 2020 (arXiv 2012.02775).

    Raises:
        Undefined: the inputs are not images. The accuracies under noise are absent where the noise does not fit into
            memory.
    """
    images = images_of(probe)
    generator = torch.Generator().manual_seed(probe.seed)
    # Mixes and copies are always drawn, in this order: what is drawn later depends on it.
    changed = mixes_and_copies(images, probe.targets, generator)
    values: dict[str, Value] = {}
    for name, made in changed.items():
        if probe.wants(_key(name)):
            values[_key(name)] = probe.accuracy_on(made, probe.targets)
    try:
        with probe.step():  # a rank without room for it leaves out these values alone, and so do the others
            for name, made in _noisy(probe, images, generator):
                values[_key(name)] = probe.accuracy_on(made, probe.targets)
    except Undefined as undefined:
        values[_key("noise_*")] = frameless(undefined)
    return values


def _noisy(probe: Probe, images: Sequence[Tensor], generator: torch.Generator) -> Iterator[tuple[str, Changed]]:
    """The images under noise, level by level, where a level is wanted."""
    wanted = {name: level for name, level in _NOISES.items() if probe.wants(_key(name))}
    if not wanted:
        return
    numbers = sum(part.numel() for part in images)
    require_room(2 * images[0].element_size() * numbers, "noise for all images")
    deviation = torch.cat(list(images)).std(dim=0, correction=0)
    shape = len(probe.targets), *images[0].shape[1:]
    noise = torch.randn(shape, generator=generator).to(images[0]).split(probe.sizes)

    def noisy(level: float, place: int) -> Tensor:
        return (noise[place] * (level * deviation)).add_(images[place])

    for name, level in wanted.items():
        yield name, partial(noisy, level)


def images_of(probe: Probe, least_side: int = 1) -> list[Tensor]:
    """The images of every batch, shape (examples, channels, height, width), or undefined; no copies."""
    images = probe.inputs
    if images is None or images[0].ndim != 4:
        raise Undefined(_why_no_images(probe))
    if min(images[0].shape[2:]) < least_side:
        raise Undefined(f"the images are smaller than {least_side} x {least_side}")
    return images


def _why_no_images(probe: Probe) -> str:
    reason = "the inputs are not images of one size"
    return reason if probe.no_inputs is None else f"{reason}: {probe.no_inputs}"


def mixes_and_copies(images: Sequence[Tensor], targets: Tensor, generator: torch.Generator) -> dict[str, Changed]:
    """The images mixed within their class, and flipped and shifted, by the names in `COPIES`; drawn now, made later."""
    return {"mix": same_class_mixes(images, targets, generator), "augment": flips_and_shifts(images, generator)}


def same_class_mixes(images: Sequence[Tensor], targets: Tensor, generator: torch.Generator) -> Changed:
    """Each image averaged with another of its class, or with itself where the class has no other; same shapes."""
    partner = torch.arange(len(targets))
    for label in targets.unique():
        members = (targets == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        partner[members] = members.roll(1)
    partners = partner.to(images[0].device).split([len(part) for part in images])
    return lambda place: _gathered(images, partners[place]).add_(images[place]).div_(2)


def _gathered(images: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Copies of the images at these rows of all batches together."""
    found = images[0].new_zeros(len(rows), *images[0].shape[1:])
    start = 0
    for part in images:  # without a wait: which rows are of this batch is not asked for on the CPU
        own = ((rows >= start) & (rows < start + len(part))).view(-1, *[1] * (part.ndim - 1))
        found = torch.where(own, part[(rows - start).clamp(0, len(part) - 1)], found)
        start += len(part)
    return found


class _Moves(NamedTuple):
    """For each image whether it is flipped, and by how many pixels it is shifted down and right."""

    flip: list[bool]
    down: list[int]
    right: list[int]


def flipped_and_shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image flipped left to right with probability one half and shifted by up to an eighth of its side."""
    return flips_and_shifts([images], generator)(0)


def flips_and_shifts(images: Sequence[Tensor], generator: torch.Generator, mirror: bool = True) -> Changed:
    """The same for images in batches, not flipped where `mirror` says so; drawn now, made later."""
    sizes, (height, width) = [len(part) for part in images], images[0].shape[2:]
    reach_y, reach_x = height // 8, width // 8
    flip = (torch.rand(sum(sizes), generator=generator) < 0.5) & mirror
    down = torch.randint(-reach_y, reach_y + 1, (sum(sizes),), generator=generator)
    right = torch.randint(-reach_x, reach_x + 1, (sum(sizes),), generator=generator)
    drawn = (part.split(sizes) for part in (flip, down, right))
    moves = [_Moves(*(part.tolist() for part in parts)) for parts in zip(*drawn, strict=True)]
    return lambda place: _moved(images[place], moves[place])


def _moved(images: Tensor, moves: _Moves) -> Tensor:
    height, width = images.shape[2:]
    reach_y, reach_x = height // 8, width // 8
    moved = torch.empty_like(images)
    for place, (image, flip, down, right) in enumerate(zip(images, *moves, strict=True)):
        padded = pad(image.flip(2) if flip else image, (reach_x, reach_x, reach_y, reach_y))
        moved[place] = padded[:, reach_y + down : reach_y + down + height, reach_x + right : reach_x + right + width]
    return moved
