"""What was observed of test accuracies: the evidence that stands beside a prediction. Numpy alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kin = Literal["run", "recipe", "task"]

SHARED = 0.5  # of the sampling variance, by the same samples at two epochs of a run: what is hard stays hard
CORRELATIONS: dict[str, float] = {"recipe": 0.9, "task": 0.3}  # of what a prediction misses, between two runs
HELD_OUT = "held_out"  # the source of the samples that `held_out=` gives
LEAST_EPOCH = 1e-3


@dataclass(frozen=True)
class Observation:
    """An accuracy on samples that a network was not trained on, beside what was predicted from training data.

    Attributes:
        accuracy: as it was observed, a fraction.
        predicted: the test accuracy that was predicted of the same weights.
        deviation: the standard deviation of that prediction. See `Prediction`.
        samples: on which the accuracy was observed; 0 where it is not of single samples.
        error: a further standard deviation of `accuracy`.
        epoch: how many epochs had been trained.
        source: which samples these are. Those of one source err alike in all epochs of a run.
        kin: whether it is of this run, of another with the same recipe, or of another in the same task. Every
            observation of another run counts as one of a run of its own.
    """

    accuracy: float
    predicted: float
    deviation: float
    samples: int = 0
    error: float = 0.0
    epoch: float = 1.0
    source: str = ""
    kin: Kin = "run"


def latest(observations: Iterable[Observation]) -> tuple[Observation, ...]:
    """Of each source of samples in this run the last observation, and all that is of no samples or of other runs.

    The same samples at earlier epochs are no further samples: what they err by is nearly the same.
    """
    listed = list(observations)
    sampled = [one for one in listed if one.kin == "run" and one.samples > 0]
    own = {one.source: one for one in sorted(sampled, key=lambda one: one.epoch)}
    return (*own.values(), *(one for one in listed if one.kin != "run" or one.samples == 0))


def residuals(observations: Sequence[Observation]) -> Floats:
    """Observed minus predicted test accuracy."""
    return np.array([one.accuracy - one.predicted for one in observations], np.float64)


def correlations(kins: Sequence[str]) -> Floats:
    """How much of what a prediction misses two observations have in common at one epoch, shape (n, n)."""
    kin = np.array(kins)
    other = kin != "run"
    alike = np.where(other[:, None] | other[None, :], CORRELATIONS["recipe"], 1.0)
    alike[(kin[:, None] == "task") | (kin[None, :] == "task")] = CORRELATIONS["task"]
    np.fill_diagonal(alike, 1.0)
    return alike


def log_epochs(epochs: Sequence[float] | Floats) -> Floats:
    """Where epochs lie on the axis on which a prediction's errors change evenly."""
    return np.log(np.maximum(np.asarray(epochs, np.float64), LEAST_EPOCH))


def noise(observations: Sequence[Observation], accuracies: Floats, alike: Floats | None = None) -> Floats:
    """The covariance of the observed accuracies around the true ones, shape (n, n).

    Those on m samples have variance p (1 - p) / m, with p in `accuracies`, kept half a sample away from 0 and 1. By
    default a share of it is common to the epochs of a run, for the same samples, and different sources are
    independent. `alike` are other correlations, shape (n, n).
    """
    if alike is None:
        alike = sampling_correlations(
            [one.source if one.kin == "run" else f"other run {place}" for place, one in enumerate(observations)]
        )
    samples = np.array([one.samples for one in observations], np.float64)
    end = jeffreys(np.zeros(len(samples)), samples)
    p = np.clip(accuracies, end, 1 - end)
    spread = np.sqrt(np.divide(p * (1 - p), samples, out=np.zeros_like(p), where=samples > 0))
    covariance = alike * np.outer(spread, spread)
    np.fill_diagonal(covariance, spread**2 + np.array([one.error for one in observations]) ** 2)
    return covariance


def sampling_correlations(sources: Sequence[str]) -> Floats:
    """Of accuracies on samples from these sources, shape (n, n): the same samples err alike."""
    source = np.array(sources, dtype=str)
    correlations = np.where(source[:, None] == source[None, :], SHARED, 0.0)
    np.fill_diagonal(correlations, 1.0)
    return correlations


def jeffreys(accuracies: Floats, samples: Floats) -> Floats:
    """The posterior mean of accuracies on so many samples by Jeffreys' prior; as they are where there are none."""
    return np.where(samples > 0, (accuracies * samples + 0.5) / (samples + 1), accuracies)
