"""One posterior for every kind of evidence: what a prediction misses, as a Gaussian process over epochs. Numpy alone.

The residual r of test accuracy (actual minus predicted) at epoch t of a run is an Ornstein-Uhlenbeck process in the log
of the epoch, whose standard deviation at each epoch is that of the prediction there times a scale. `Observation` says
what is known of it. The list of observations is the only state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_gengap.predictors.observations import (
    Floats,
    Observation,
    correlations,
    jeffreys,
    latest,
    log_epochs,
    noise,
    residuals,
)

LENGTH = 1.5  # of the process, in the log of the epoch
_ROUNDS = 4  # the sampling variance depends on the accuracy, and that on the sampling variance
_LEAST_VARIANCE = 1e-12  # so that a prediction without any uncertainty can be asked too
MOST_APART = 3.0  # deviations between a prediction and what was observed; farther apart, the prediction is doubted


@dataclass(frozen=True)
class Posterior:
    """Mean and variance of the residual of test accuracy at the epochs that were asked for."""

    mean: Floats
    variance: Floats


def posterior(
    observations: Sequence[Observation],
    epochs: Sequence[float] | Floats,
    deviations: Sequence[float] | Floats,
    scale: float = 1.0,
) -> Posterior:
    """What the observations say of the residuals of a run.

    Args:
        observations: in any order.
        epochs: of the run that is asked about.
        deviations: the standard deviation of the prediction at each of these epochs.
        scale: multiplies all deviations, those of the observations too. See `Scales`. Where an observation contradicts
            what was predicted, it is larger: see `widened`.

    Example:
        >>> seen = Observation(accuracy=0.7, predicted=0.8, deviation=0.05, samples=100, epoch=10)
        >>> after = posterior([seen], epochs=[10], deviations=[0.05])
        >>> round(float(after.mean[0]), 3), round(float(after.variance[0]) ** 0.5, 3)
        (-0.057, 0.033)
    """
    mean, covariance = conditioned(_prior(observations, epochs, deviations, scale), observations)
    return Posterior(mean, np.maximum(np.diag(covariance), 0.0))


def believed(observations: Sequence[Observation], epoch: float, deviation: float, scale: float = 1.0) -> Posterior:
    """The residual at one epoch of a run: its mean from all observations, its variance from the last of each source.

    Real samples err more alike at two epochs than the process says. What earlier epochs say moves the mean the right
    way, but they make it hardly more certain: with them the interval of 90 % covers 82 to 87 %.
    """
    mean = posterior(observations, [epoch], [deviation], scale).mean
    certain = posterior(latest(observations), [epoch], [deviation], widened(observations, scale))
    return Posterior(mean, certain.variance)


def influence(observations: Sequence[Observation], epoch: float, deviation: float, scale: float = 1.0) -> Floats:
    """By how much the posterior mean at an epoch follows the residual of each observation, shape (observations,)."""
    prior, count = _prior(observations, [epoch], [deviation], scale), len(observations)
    covariance = _with_noise(observations, prior[:count, :count], None)
    followed: Floats = np.linalg.solve(covariance, prior[:count, count]).astype(np.float64)
    return followed


def _prior(
    observations: Sequence[Observation],
    epochs: Sequence[float] | Floats,
    deviations: Sequence[float] | Floats,
    scale: float,
) -> Floats:
    """The covariance of the residuals: first of those that were observed, then of those that are asked about."""
    times = log_epochs([*(one.epoch for one in observations), *epochs])
    sizes = widened(observations, scale) * np.array([*(one.deviation for one in observations), *deviations], np.float64)
    kins = [*(one.kin for one in observations), *["run"] * len(epochs)]
    prior: Floats = correlations(kins) * np.outer(sizes, sizes) * np.exp(-np.abs(times[:, None] - times) / LENGTH)
    return prior


def conditioned(
    prior: Floats, observations: Sequence[Observation], alike: Floats | None = None
) -> tuple[Floats, Floats]:
    """Mean and covariance of the residuals that are asked about, given what was observed of others.

    Args:
        prior: the covariance of all residuals: first those that were observed, then those that are asked about.
        observations: of the first of them.
        alike: how the sampling errors of the observations are correlated. See `noise`.
    """
    count = len(observations)
    seen, across = prior[:count, :count], prior[:count, count:]
    covariance = _with_noise(observations, seen, alike)
    mean = across.T @ np.linalg.solve(covariance, residuals(observations))
    return mean, prior[count:, count:] - across.T @ np.linalg.solve(covariance, across)


def deviations_apart(observations: Sequence[Observation], scale: float = 1.0) -> Floats:
    """How far each observation lies from what was predicted, in standard deviations of the difference."""
    own, sampling = _variances(observations, scale)
    return np.abs(residuals(observations)) / np.sqrt(own + sampling)


def widened(observations: Sequence[Observation], scale: float) -> float:
    """The scale at which no observation lies more than three deviations from what was predicted.

    A Gaussian prior and an observation far away from it have a posterior between both, as narrow as if they agreed.
    Where they contradict each other, the deviation of the prediction was too small. What was observed stays as it is.
    """
    own, sampling = _variances(observations, scale)
    needed = (residuals(observations) / MOST_APART) ** 2 - sampling
    return scale * float(np.max([1.0, *(needed / own)])) ** 0.5


def _variances(observations: Sequence[Observation], scale: float) -> tuple[Floats, Floats]:
    """The variance of each prediction, and that of what was observed around the truth."""
    deviations, accuracies, samples = (
        np.array([getattr(one, name) for one in observations], np.float64)
        for name in ("deviation", "accuracy", "samples")
    )
    sampling = np.diag(noise(observations, jeffreys(accuracies, samples)))
    return np.maximum((scale * deviations) ** 2, _LEAST_VARIANCE), sampling


def _with_noise(observations: Sequence[Observation], seen: Floats, alike: Floats | None) -> Floats:
    """The covariance of what was observed; each accuracy in its noise is the one that follows from all observations."""
    predicted, observed = (
        np.array([getattr(one, name) for one in observations], np.float64) for name in ("predicted", "accuracy")
    )
    accuracies = jeffreys(observed, np.array([one.samples for one in observations], np.float64))
    least = _LEAST_VARIANCE * np.eye(len(observations))
    for _ in range(_ROUNDS):
        covariance = seen + noise(observations, accuracies, alike) + least
        accuracies = predicted + seen @ np.linalg.solve(covariance, observed - predicted)
    return covariance


def equivalent_hold_out(accuracy: float, variance: float) -> float:
    """How many held-out samples tell the test accuracy as well: p (1 - p) over its variance.

    The accuracy p is kept a deviation away from 0 and 1, where a hold-out would seem to know everything.
    """
    away = min(max(variance, _LEAST_VARIANCE) ** 0.5, 0.5)
    p = min(max(accuracy, away), 1 - away)
    return p * (1 - p) / max(variance, _LEAST_VARIANCE)
