"""What a measure returns under a key: a number, a distribution to draw, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lightning_gengap.errors import Undefined


@dataclass(frozen=True)
class Histogram:
    """One value per sample, to be drawn as a histogram.

    Attributes:
        samples: shape (examples,), on the CPU; what is not finite is left out of the drawing.
    """

    samples: Tensor


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of a matrix, to be drawn over their logarithm.

    Attributes:
        eigenvalues: shape (nodes,), float64, on the CPU.
        directions: how many directions each stands for; shape (nodes,).
    """

    eigenvalues: Tensor
    directions: Tensor


Figure = Histogram | Spectrum
Value = float | Figure | Undefined
# By key. The name of an undefined value may be a shell pattern that ends in `*`, for all keys that match it.
Values = Mapping[str, Value]
