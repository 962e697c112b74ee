"""What a measure returns under a key: a number, a distribution to draw, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lightning_gengap.errors import Undefined


@dataclass(frozen=True)
class Histogram:
    """One value per sample, to be drawn as a histogram; what is not finite is left out of the drawing."""

    samples: Tensor  # shape (examples,), on the CPU


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of a matrix, to be drawn over their logarithm, and how many directions each stands for."""

    eigenvalues: Tensor  # shape (nodes,), float64, on the CPU
    directions: Tensor  # shape (nodes,)


Figure = Histogram | Spectrum
Value = float | Figure | Undefined
# By key. The name of an undefined value may be a shell pattern that ends in `*`, for all keys that match it.
Values = Mapping[str, Value]
