"""How the error falls with the number of samples: a power law with an asymptote, and what measured errors say of it.

error(n) = asymptote + factor n^-exponent. Every law of a grid has a weight: how well it fits the measured errors,
times how usual such a law is. Without such a prior, the exponent of a line through two errors is mostly noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EXPONENT, EXPONENT_DEVIATION = 0.5, 0.15
RUN_DEVIATION = 0.01  # of the accuracies of two trainings of one recipe, which differ by seed and draw of the samples
_EXPONENTS = np.linspace(0.1, 1.1, 21)
_SHARES = np.linspace(0.0, 0.975, 40)  # of the error at the largest size, that the asymptote is
_LEVELS = np.linspace(-4.0, 4.0, 41)  # in deviations of the error at the largest size
_HALF_WIDTH = 1.645  # of the 90 % band, in deviations


@dataclass(frozen=True)
class Reading:
    """An accuracy with its uncertainty, as fractions.

    Attributes:
        accuracy: the expected one.
        deviation: how much the accuracy of a training deviates from it, as a standard deviation.
        lower: it lies between this and `upper` with a probability of 90 %.
        upper: see `lower`.
    """

    accuracy: float
    deviation: float
    lower: float
    upper: float


@dataclass(frozen=True)
class PowerLaws:
    """Laws, and the weight of each.

    Attributes:
        size: the largest that was measured.
        errors: at that size.
        shares: of that error, that are the asymptote.
        exponents: of the number of samples.
        weights: of the laws; they sum to 1.
        chance: the accuracy of a guess, below which none falls.
    """

    size: float
    errors: Floats
    shares: Floats
    exponents: Floats
    weights: Floats
    chance: float

    @classmethod
    def of(cls, sizes: Sequence[float], accuracies: Sequence[float], tested: Sequence[int], chance: float) -> PowerLaws:
        """What accuracies on so many test samples, of trainings on so many samples, say of the law.

        Raises:
            ValueError: there is no accuracy.
        """
        order = np.argsort(sizes)
        size, error = np.asarray(sizes, float)[order], 1 - np.asarray(accuracies, float)[order]
        count = np.asarray(tested, float)[order]
        smoothed = (error * count + 0.5) / (count + 1)  # an error of 0 is uncertain too
        deviation = np.sqrt(smoothed * (1 - smoothed) / count + _of_a_run(smoothed) ** 2)
        levels = error[-1] + _LEVELS * deviation[-1]
        level, share, exponent = (
            grid.ravel() for grid in np.meshgrid(levels[levels > 0], _SHARES, _EXPONENTS, indexing="ij")
        )
        laws = cls(float(size[-1]), level, share, exponent, np.ones(len(level)) / len(level), chance)
        misfit = np.stack([(laws._at(n) - e) / d for n, e, d in zip(size, error, deviation, strict=True)])
        score = -0.5 * (misfit**2).sum(axis=0) - 0.5 * ((exponent - EXPONENT) / EXPONENT_DEVIATION) ** 2
        weights = np.exp(score - score.max())
        return cls(laws.size, level, share, exponent, weights / weights.sum(), chance)

    def at(self, size: float) -> Reading:
        """The test accuracy of a training on so many samples."""
        errors = self._at(size)
        mean = float(self.weights @ errors)
        deviation = float(np.sqrt(self.weights @ ((errors - mean) ** 2 + _of_a_run(errors) ** 2)))
        half = _HALF_WIDTH * deviation
        return Reading(1 - mean, deviation, max(1 - mean - half, 0.0), min(1 - mean + half, 1.0))

    @property
    def exponent(self) -> float:
        """The expected exponent."""
        return float(self.weights @ self.exponents)

    @property
    def asymptote(self) -> float:
        """The expected accuracy on any number of samples."""
        return 1 - float(self.weights @ (self.shares * self.errors))

    def _at(self, size: float) -> Floats:
        errors = self.errors * (self.shares + (1 - self.shares) * (size / self.size) ** -self.exponents)
        return np.minimum(errors, 1 - self.chance)


def _of_a_run(errors: Floats) -> Floats:
    """The deviation of a training's accuracy from what is expected: less near perfection."""
    return np.minimum(RUN_DEVIATION, np.sqrt(np.maximum(errors, 1e-4)) * RUN_DEVIATION / 0.3)
