"""How a training step changed its inputs before the network saw them: by normalising, or by augmenting or mixing."""

from __future__ import annotations

import torch
from torch import Tensor

FEWEST = 4  # samples that can tell a normalisation from an augmentation
_EXACT = 1e-4  # of the spread
_NEAR = 0.25  # of the spread, in the mean
_SPREADS = (0.67, 1.5)  # ratios


def is_augmented(plain: Tensor, changed: Tensor) -> bool:
    """Whether the changed inputs look like the plain ones, augmented or mixed: samples that the network may see.

    They have the mean and spread of the plain ones, and are no shift and scale of every feature, as a normalisation is.

    Args:
        plain: floats, shape (examples, ...).
        changed: of the same shape.
    """
    if plain.shape != changed.shape or len(plain) < FEWEST or not plain.is_floating_point():
        return False
    plain, changed = plain.detach().float().flatten(1), changed.detach().float().flatten(1)
    if not bool(plain.isfinite().all() and changed.isfinite().all()):
        return False
    return _alike(plain, changed) and not _rescaled(plain, changed)


def _alike(plain: Tensor, changed: Tensor) -> bool:
    spread, other = float(plain.std()), float(changed.std())
    if spread == 0 or other == 0:
        return False
    apart = abs(float(plain.mean()) - float(changed.mean()))
    return apart <= _NEAR * spread and _SPREADS[0] <= other / spread <= _SPREADS[1]


def _rescaled(plain: Tensor, changed: Tensor) -> bool:
    """Whether each feature is a straight line of what it was."""
    one, other = plain - plain.mean(0), changed - changed.mean(0)
    slope = (one * other).sum(0) / (one * one).sum(0).clamp_min(torch.finfo(one.dtype).tiny)
    return float((other - slope * one).abs().max()) <= _EXACT * float(changed.std())
