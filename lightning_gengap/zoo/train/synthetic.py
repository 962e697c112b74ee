"""Synthetic classification problems whose Bayes accuracy is known."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FEATURES, CLASSES = 20, 4
SYNTHETIC = ("gaussians", "teacher")
_SIZES = {"train": 6000, "test": 4000}
_BAYES_SAMPLES = 200_000
Drawn = tuple[NDArray[np.float64], NDArray[np.int64]]


def drawn(source: str, split: str) -> Drawn:
    """Features (N, 20) and labels in 0..3; the same for the same split.

    `gaussians`: four unit normal clouds around random means. `teacher`: standard normal features, labels drawn from
    the softmax of a random two-layer network.
    """
    rng = np.random.default_rng([SYNTHETIC.index(source), 1 + sorted(_SIZES).index(split)])
    return _sample(source, _SIZES[split], rng)[:2]


@lru_cache
def bayes_accuracy(source: str) -> float:
    """The accuracy of the most probable class given the features, by Monte Carlo (+-0.1 points); NaN if unknown."""
    if source not in SYNTHETIC:
        return math.nan
    return float(_sample(source, _BAYES_SAMPLES, np.random.default_rng(7))[2].max(axis=1).mean())


def _sample(
    source: str, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Features, labels and the posterior of the classes."""
    fixed = np.random.default_rng(SYNTHETIC.index(source))
    if source == "gaussians":
        means = fixed.normal(size=(CLASSES, FEATURES)) * 0.45
        labels = rng.integers(0, CLASSES, count)
        features = means[labels] + rng.normal(size=(count, FEATURES))
        scores = features @ means.T - 0.5 * (means**2).sum(axis=1)
        return features, labels, _softmax(scores)
    first = fixed.normal(size=(FEATURES, 16)) / math.sqrt(FEATURES)
    second = fixed.normal(size=(16, CLASSES)) * 1.6
    features = rng.normal(size=(count, FEATURES))
    posterior = _softmax(np.tanh(2 * features @ first) @ second)
    labels = (posterior.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return features, np.minimum(labels, CLASSES - 1), posterior


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
