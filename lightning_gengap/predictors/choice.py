"""The epoch with the highest estimate, and how much its choice flatters it. Numpy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_gengap.predictors.estimate import Estimate
from lightning_gengap.predictors.evidence import equivalent_hold_out, influence
from lightning_gengap.predictors.observations import Observation, noise, residuals
from lightning_gengap.predictors.parts import NORMAL_QUANTILE

_DRAWS = 512
_ROOM = 1e-12  # so that the noise of equal observations has a Cholesky factor


@dataclass(frozen=True)
class Shown:
    """What was estimated of the weights at an epoch.

    Attributes:
        epoch: the number of trained epochs.
        estimate: from what was known then.
        deviation: the standard deviation of the prediction. See `Prediction`.
    """

    epoch: float
    estimate: Estimate
    deviation: float


@dataclass(frozen=True)
class Best:
    """The epoch with the highest estimated test accuracy.

    Attributes:
        epoch: how many epochs had been trained.
        gap, lower, upper: the estimated gap there, with an interval that allows for the choice. Fractions.
        test_accuracy: as it was estimated, a fraction.
        equivalent_hold_out: what the estimate is worth in held-out samples, after the choice.
        optimism: by how much the highest of the estimates is too high on average, as far as that is luck with the
            held-out samples; a fraction. It is 0 where there are none.
    """

    epoch: float
    gap: float
    lower: float
    upper: float
    test_accuracy: float
    equivalent_hold_out: float
    optimism: float


def best_of(shown: Sequence[Shown], observations: Sequence[Observation], scale: float = 1.0) -> Best | None:
    """The epoch with the highest estimated test accuracy, the first one of equals; None where nothing was estimated.

    Of many estimates the highest is chosen for its luck too. What that adds on average widens the interval, as a
    further error. It is not subtracted: estimates that lie between a prediction and many samples are hardly too high,
    and those of little data are by other amounts.

    Args:
        shown: estimates of one run.
        observations: of that run, and of others.
        scale: of the predictions' deviations. See `Scales`.
    """
    if not shown:
        return None
    best = highest(shown)
    found, lucky = best.estimate, optimism(observations, scale, shown)
    half = NORMAL_QUANTILE * lucky
    train = found.gap + found.test_accuracy
    test, worth = found.test_accuracy, found.equivalent_hold_out
    if lucky > 0:
        worth = equivalent_hold_out(test, test * (1 - test) / max(worth, 1e-9) + lucky**2)
    return Best(
        epoch=best.epoch,
        gap=found.gap,
        lower=max(found.gap - math.hypot(found.gap - found.lower, half), train - 1),
        upper=min(found.gap + math.hypot(found.upper - found.gap, half), train),
        test_accuracy=test,
        equivalent_hold_out=min(worth, found.equivalent_hold_out),
        optimism=lucky,
    )


def highest(shown: Sequence[Shown]) -> Shown:
    """The highest estimate, the first one of equals: as checkpoints see them, which get them in single precision."""
    return max(shown, key=lambda one: (np.float32(one.estimate.test_accuracy), -one.epoch))


def optimism(observations: Sequence[Observation], scale: float = 1.0, shown: Sequence[Shown] = ()) -> float:
    """By how much the highest estimate of a run's epochs exceeds the accuracy there, on average, by luck alone.

    Held-out samples are drawn again and again as if the estimates were the truth, and the epoch is chosen anew. The
    draws are always the same. At least 0, a fraction. A run of 128 observed epochs takes a second.

    Args:
        observations: of the run, and of others.
        scale: of the predictions' deviations. See `Scales`.
        shown: what was estimated at epochs of the run. One without an observation is chosen by luck as well, because
            its estimate follows what was observed before. Epochs that were observed alone are estimated here.

    Example:
        >>> seen = [Observation(0.7, 0.7, 0.05, samples=100, epoch=epoch) for epoch in (1, 3, 9)]
        >>> 0 < optimism(seen) < 0.03
        True
        >>> optimism(seen[:1])
        0.0
    """
    own = sorted((one for one in observations if one.kin == "run"), key=lambda one: one.epoch)
    others = [one for one in observations if one.kin != "run"]
    deviations = {one.epoch: one.deviation for one in own} | {one.epoch: one.deviation for one in shown}
    epochs = sorted(deviations)
    if not own or len(epochs) < 2:
        return 0.0
    told = {one.epoch: one.estimate.test_accuracy for one in shown}
    follows = np.zeros((len(epochs), len(own)))
    for place, epoch in enumerate(epochs):
        known = [one for one in own if one.epoch <= epoch]
        if not known:
            continue
        asked = [*known, *(replace(one, epoch=epoch) for one in others)]
        row = influence(asked, epoch, deviations[epoch], scale)
        follows[place, : len(known)] = row[: len(known)]
        told.setdefault(epoch, known[-1].predicted + float(row @ residuals(asked)))
    estimated = np.clip([told[epoch] for epoch in epochs], 0.0, 1.0)
    of_own = np.array([estimated[epochs.index(one.epoch)] for one in own])
    spread = noise(own, of_own) + _ROOM * np.eye(len(own))
    drawn = np.random.default_rng(0).standard_normal((_DRAWS, len(own))) @ np.linalg.cholesky(spread).T
    moved = np.clip(of_own + drawn, 0.0, 1.0) - np.array([one.accuracy for one in own])
    again = np.clip(estimated + moved @ follows.T, 0.0, 1.0)
    chosen = again.argmax(axis=1)
    return max(float(np.mean(again[np.arange(_DRAWS), chosen] - estimated[chosen])), 0.0)
