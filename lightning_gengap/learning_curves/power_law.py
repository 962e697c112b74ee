"""How the error falls with the number of samples: a power law between chance and an asymptote.

(error - asymptote) / (error of a guess - error) = factor n^-exponent. Far from chance, the error falls towards the
asymptote as n^-exponent. Near chance, where few samples teach next to nothing, the skill rises as n^exponent. Every law
of a grid has a weight: how well it fits the measured errors, times how usual such a law is. Without such a prior, the
exponent of a line through two errors is mostly noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EXPONENT, EXPONENT_DEVIATION = 0.5, 0.3
RUN_DEVIATION = 0.015  # of the accuracies of two trainings of one recipe, which differ by seed and draw of the samples
_NEAR_PERFECTION = 0.3  # the square root of an error, below which that deviation falls with it
_HALF_WIDTH = 1.645  # of the 90 % band, in deviations
_EXPONENTS = np.linspace(0.05, 1.6, 32)
_SHARES = np.linspace(0.0, 0.975, 40)  # of the error at the largest size, that the asymptote is
_LEVELS = np.linspace(-4.0, 4.0, 33)  # of the error at the largest size, in its deviations
_NEAREST = 0.999  # of the error of a guess: how near to it an error may be


@dataclass(frozen=True)
class Estimate:
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
        asymptotes: the error on any number of samples.
        exponents: of the number of samples.
        weights: of the laws; they sum to 1.
        chance: the error of a guess.
    """

    size: float
    errors: Floats
    asymptotes: Floats
    exponents: Floats
    weights: Floats
    chance: float

    @classmethod
    def of(cls, sizes: Sequence[float], accuracies: Sequence[float], tested: Sequence[int], guess: float) -> PowerLaws:
        """What accuracies on so many test samples, of trainings on so many samples, say of the law.

        Args:
            sizes: numbers of training samples, one at least.
            accuracies: test accuracies as fractions.
            tested: numbers of test samples.
            guess: the accuracy of a guess, below 1.
        """
        order = np.argsort(sizes)
        size, error = np.asarray(sizes, float)[order], 1 - np.asarray(accuracies, float)[order]
        count, chance = np.asarray(tested, float)[order], 1 - guess
        smoothed = (error * count + 0.5) / (count + 1)  # an error of 0 is uncertain too
        deviation = np.sqrt(smoothed * (1 - smoothed) / count + _of_a_run(smoothed) ** 2)
        levels = np.clip(error[-1] + _LEVELS * deviation[-1], 0.01 * deviation[-1], _NEAREST * chance)
        level, share, exponent = (
            grid.ravel() for grid in np.meshgrid(np.unique(levels), _SHARES, _EXPONENTS, indexing="ij")
        )
        laws = cls(float(size[-1]), level, share * level, exponent, np.ones(len(level)) / len(level), chance)
        misfit = np.stack([(laws._at(n) - e) / d for n, e, d in zip(size, error, deviation, strict=True)])
        score = -0.5 * (misfit**2).sum(axis=0) - 0.5 * ((exponent - EXPONENT) / EXPONENT_DEVIATION) ** 2
        weights = np.exp(score - score.max())
        return cls(laws.size, level, laws.asymptotes, exponent, weights / weights.sum(), chance)

    def at(self, size: float) -> Estimate:
        """The test accuracy of a training on so many samples."""
        errors = self._at(size)
        mean = float(self.weights @ errors)
        deviation = float(np.sqrt(self.weights @ ((errors - mean) ** 2 + _of_a_run(errors) ** 2)))
        half = _HALF_WIDTH * deviation
        return Estimate(1 - mean, deviation, max(1 - mean - half, 0.0), min(1 - mean + half, 1.0))

    def _at(self, size: float) -> Floats:
        """The error of each law."""
        odds = (self.errors - self.asymptotes) / (self.chance - self.errors) * (size / self.size) ** -self.exponents
        return (self.asymptotes + self.chance * odds) / (1 + odds)


def _of_a_run(errors: Floats) -> Floats:
    """The deviation of a training's accuracy from what is expected: less near perfection."""
    return RUN_DEVIATION * np.minimum(1.0, np.sqrt(np.maximum(errors, 1e-4)) / _NEAR_PERFECTION)
