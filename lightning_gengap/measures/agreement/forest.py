"""Extremely randomised trees, each asked about the samples alone that it was not grown on."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gengap.errors import Undefined

TREES = 100
MOST_INPUTS = 2**14  # of one sample


def out_of_bag_scores(inputs: Tensor, targets: Tensor, seed: int) -> Tensor:
    """The mean over trees of the class shares in the leaf, for each sample over the trees that did not see it.

    Args:
        inputs: float32 on the CPU, shape (examples, features).
        targets: class indices, shape (examples,).
        seed: draws the trees.

    Returns:
        Shares, float64, shape (examples, classes); 0 for a sample that every tree has seen.

    Raises:
        Undefined: there are too many features, or some are not finite.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    if inputs.shape[1] > MOST_INPUTS:
        raise Undefined(f"a sample has {inputs.shape[1]:,} inputs, more than {MOST_INPUTS:,}")
    if not bool(inputs.isfinite().all()):
        raise Undefined("the inputs are not all finite")
    trees = ExtraTreesClassifier(TREES, bootstrap=True, oob_score=True, random_state=seed)
    trees.fit(inputs.numpy(), targets.numpy())
    scores = torch.zeros(len(targets), int(targets.max()) + 1, dtype=torch.float64)
    found = torch.from_numpy(trees.oob_decision_function_).nan_to_num(0.0)
    scores[:, torch.from_numpy(trees.classes_)] = found
    return scores
