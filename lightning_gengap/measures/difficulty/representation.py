"""How well the trained network's hidden layers tell the classes apart when each sample is left out."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gengap.measures.difficulty.difficulty import (
    enough_samples,
    leave_one_out_accuracy,
    leave_one_out_neighbours,
    leave_one_out_ridge,
    left_out_scores,
    pooled_features,
    signed_labels,
    standardised_gram,
)
from lightning_gengap.network.probe import Probe

NEIGHBOURS = (1, 10)
LAST = "h3"
_INITIAL = "representation/initial"


def representation(probe: Probe) -> dict[str, float]:
    """Leave-one-out accuracy of ridge and of neighbours on the hidden layers of the network as it is now.

    A network that fits labels by moving samples of one class together raises these scores towards its train accuracy;
    one that fits them one by one, in the last layers only, raises them less. Keys, labels as trained:
    `representation/ridge_accuracy`, as `difficulty/ridge_accuracy` but at the present weights (all hidden layers,
    pooled and standardised; the largest over four strengths); `representation/ridge_error`, the smallest over the
    strengths of the mean squared error of the left-out scores over the variance of the labels (no unit, at least 0,
    about 1 where nothing is learnt): it still moves where the accuracy is 1; `representation/ridge_growth`, the
    accuracy minus that at the initial weights, in [-1, 1]; `representation/h3/ridge_accuracy`, on h3 alone; and, for
    every hidden layer, `representation/<layer>/neighbour_1_accuracy` and `.../neighbour_10_accuracy` (Euclidean, pooled
    features). Fractions. Invariant to a scaling of the logits and to ReLU rescaling of whole layers. Absent, with a
    note: all without hidden layers or with fewer than five samples per class present; the growth without initial
    weights. Cost: one forward pass, two eigendecompositions of an (examples x examples) matrix and the distances at
    every layer: at 1,000 samples a second or two of one core, ten and more forwards of a small network; once per
    training another forward and decomposition. Reference: the kernel's growth with training, Fort et al. 2020 (arXiv
    2010.15110).
    """
    if not probe.layout.taps:
        probe.notes.append("representation/* is absent: there are no hidden layers")
        return {}
    if not enough_samples(probe, "representation/*"):
        return {}
    if len(probe.targets.unique()) < 2:
        probe.notes.append("representation/* is absent: there is one class only")
        return {}
    layers = pooled_features(probe)
    targets = probe.targets
    scores = left_out_scores(standardised_gram(torch.cat(list(layers.values()), dim=1)), targets)
    values = {
        "representation/ridge_accuracy": leave_one_out_accuracy(scores, targets),
        "representation/ridge_error": leave_one_out_error(scores, targets),
    }
    if probe.initial_state is None:
        probe.notes.append("representation/ridge_growth is absent: there are no initial weights")
    else:
        values["representation/ridge_growth"] = values["representation/ridge_accuracy"] - initial_accuracy(probe)
    if LAST in layers:
        values[f"representation/{LAST}/ridge_accuracy"] = leave_one_out_ridge(layers[LAST], targets)
    for layer, features in layers.items():
        for neighbours in NEIGHBOURS:
            accuracy = leave_one_out_neighbours(features, targets, neighbours)
            values[f"representation/{layer}/neighbour_{neighbours}_accuracy"] = accuracy
    return values


def leave_one_out_error(scores: list[Tensor], targets: Tensor) -> float:
    """The smallest over the strengths of the left-out scores' squared error, over the variance of the labels."""
    signs = signed_labels(targets, scores[0])
    variance = float((signs - signs.mean(dim=0)).square().mean())
    return min(float((left_out - signs).square().mean()) for left_out in scores) / variance


def initial_accuracy(probe: Probe) -> float:
    """The ridge accuracy at the initial weights, computed once per training for these samples."""
    kept = probe.memory.get(_INITIAL)
    if kept is None or int(kept[1]) != len(probe.targets):
        features = torch.cat(list(pooled_features(probe, probe.initial_state).values()), dim=1)
        accuracy = leave_one_out_ridge(features, probe.targets)
        kept = torch.tensor([accuracy, len(probe.targets)], dtype=torch.float64)
        probe.memory[_INITIAL] = kept
    return float(kept[0])
