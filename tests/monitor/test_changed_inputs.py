"""What a change of inputs looks like: an augmentation, a mix, or a normalisation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_gengap.monitor.changed_inputs import is_augmented

IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
NOISE = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(2))

AUGMENTED: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": lambda x: x.flip(-1),
    "shift": lambda x: x.roll(2, -1),
    "mix": lambda x: 0.7 * x + 0.3 * x.roll(1, 0),
    "cut and paste": lambda x: torch.cat([x[..., :4], x.roll(1, 0)[..., 4:]], -1),
    "noise": lambda x: x + 0.1 * NOISE,
}
OTHERWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "normalised": lambda x: (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True),
    "bytes": lambda x: 255 * x,
    "nearly the same scale": lambda x: 1.1 * x + 0.02,
    "each pixel by its own": lambda x: x * (1 + 0.1 * torch.arange(8)),
    "another shape": lambda x: x[..., :4],
    "not finite": lambda x: x / 0,
}


@pytest.mark.parametrize("kind", AUGMENTED)
def test_augmented_inputs_look_like_the_plain_ones(kind: str) -> None:
    assert is_augmented(IMAGES, AUGMENTED[kind](IMAGES))


@pytest.mark.parametrize("kind", OTHERWISE)
def test_other_changes_do_not(kind: str) -> None:
    assert not is_augmented(IMAGES, OTHERWISE[kind](IMAGES))


def test_vectors_and_too_few_samples() -> None:
    assert is_augmented(VECTORS, VECTORS.flip(0))
    assert not is_augmented(VECTORS, (VECTORS - VECTORS.mean(0)) / VECTORS.std(0))
    assert not is_augmented(VECTORS[:3], VECTORS[:3].flip(0))
    assert not is_augmented(torch.ones(8, 2).long(), torch.ones(8, 2).long())
