"""Extremely randomised trees, each asked about the samples alone that it was not grown on."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lightning_gengap.derivatives.time import A_SECOND
from lightning_gengap.errors import Undefined

TREES = 100
MOST_INPUTS = 2**14  # of one sample
A_NUMBER = 30e-9  # seconds that a level of a tree takes for a sample and a feature that it tries


def out_of_bag_shares(inputs: Tensor, targets: Tensor, seed: int, judged: int | None = None) -> Tensor:
    """The mean over trees of the class shares in the leaf, for each sample over the trees that did not see it.

    They are the trees of scikit-learn's forest with this seed. One is held at a time.

    Args:
        inputs: float32 on the CPU, shape (examples, features).
        targets: class indices, shape (examples,).
        seed: draws the trees.
        judged: how many of the samples, the first ones, are asked about; None for all.

    Returns:
        Shares, float64, shape (judged, classes); 0 for a sample that every tree has seen.

    Raises:
        Undefined: there are too many features, or some are not finite.
    """
    from sklearn.tree import ExtraTreeClassifier

    if inputs.shape[1] > MOST_INPUTS:
        raise Undefined(f"a sample has {inputs.shape[1]:,} inputs, more than {MOST_INPUTS:,}")
    if not bool(inputs.isfinite().all()):
        raise Undefined("the inputs are not all finite")
    rows, labels = np.ascontiguousarray(inputs.numpy()), targets.numpy()
    first = rows[:judged]
    shares, asked = np.zeros((len(first), int(targets.max()) + 1)), np.zeros(len(first))
    seeds = np.random.RandomState(seed % 2**32)  # numpy knows no other seeds
    for _ in range(TREES):
        own = seeds.randint(np.iinfo(np.int32).max)
        drawn = np.random.RandomState(own).randint(0, len(rows), len(rows), dtype=np.int32)
        times = np.bincount(drawn, minlength=len(rows))
        tree = ExtraTreeClassifier(random_state=own).fit(rows, labels, sample_weight=times)
        unseen = times[: len(first)] == 0
        if unseen.any():
            shares[np.ix_(unseen, tree.classes_)] += tree.predict_proba(first[unseen])
            asked[unseen] += 1
    return torch.from_numpy(shares / np.maximum(asked, 1)[:, None])


def cost_of(features: int, classes: int, samples: int) -> float:
    """What a sample of so many takes, in multiplications that take as long."""
    levels = math.log2(max(samples, 2)) + classes / 4
    return TREES * math.sqrt(features) * levels * A_NUMBER * A_SECOND
