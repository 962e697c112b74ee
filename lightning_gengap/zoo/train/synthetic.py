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


def synthetic_split(source: str, split: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features (N, 20) and labels 0 to 3 (N,) of a split, the same at every call.

    `gaussians` are four unit normal clouds around random means. `teacher` has standard normal features, and labels
    drawn from the softmax of a random two-layer network.
    """
    rng = np.random.default_rng([SYNTHETIC.index(source), 1 + sorted(_SIZES).index(split)])
    return _sample(source, _SIZES[split], rng)[:2]


@lru_cache
def bayes_accuracy(source: str) -> float:
    """The accuracy of the most probable class given the features; NaN where it is unknown.

    It is a Monte Carlo mean with a standard error of 0.1 accuracy points.
    """
    if source not in SYNTHETIC:
        return math.nan
    return float(_sample(source, _BAYES_SAMPLES, np.random.default_rng(7))[2].max(axis=1).mean())


def _sample(
    source: str, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Features, labels, and the probabilities of the classes given the features."""
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
