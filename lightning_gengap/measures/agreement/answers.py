"""What a reference says of samples, and how scores become shares."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import one_hot

TEMPERATURES = [2.0**power for power in range(-8, 8)]
_FLOOR = 1e-12


class Said(NamedTuple):
    """What a reference says of the judged samples.

    Attributes:
        shares: how probable each class is for each sample, shape (judged, classes).
        flipped: the predicted class of each sample's mirror image, shape (judged,); None where there is none.
    """

    shares: Tensor
    flipped: Tensor | None = None


def best_of(found: list[Tensor], ranks: Tensor) -> Tensor:
    """The scores of the highest accuracy."""
    return max(found, key=lambda scores: int((scores.argmax(1) == ranks).sum()))


def signs(ranks: Tensor, classes: int) -> Tensor:
    """+1 for the own class and -1 for the others, all -1 for a rank of -1; float64, shape (examples, classes)."""
    known = one_hot(ranks.clamp(min=0), classes).double() * (ranks >= 0).double()[:, None]
    return 2 * known - 1


def calibrated(scores: Tensor, ranks: Tensor) -> Tensor:
    """Shares from scores: their softmax at the temperature at which the given labels are most probable."""
    candidates = ((scores * factor).softmax(1) for factor in TEMPERATURES)
    own = ranks[:, None]
    return max(candidates, key=lambda shares: float(shares.gather(1, own).clamp(min=_FLOOR).log().sum()))
