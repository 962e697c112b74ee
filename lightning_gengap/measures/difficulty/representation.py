"""How well the trained network's hidden layers tell the classes apart when each sample is left out."""

from __future__ import annotations

import math

import torch

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.difficulty.compared_samples import Compared, compared
from lightning_gengap.measures.difficulty.difficulty import initial_features, pooled_features
from lightning_gengap.measures.difficulty.leave_one_out_scores import (
    accuracy_key,
    distances_to_others,
    leave_one_out_accuracy,
    leave_one_out_error,
    leave_one_out_ridge,
    left_out_scores,
    require_comparison,
    standardised_gram,
    vote_of_neighbours,
)
from lightning_gengap.measures.key import INVARIANT, Key
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.layers import LAYERS
from lightning_gengap.network.probe import Probe

NEIGHBOURS = (1, 10)
LAST = "h3"
_INITIAL = "representation/initial"
KEYS = {
    "representation/ridge_accuracy": accuracy_key("ridge accuracy on the hidden layers now"),
    f"representation/{LAST}/ridge_accuracy": accuracy_key(f"ridge accuracy on {LAST} now"),
    "representation/ridge_growth": Key(
        "fraction",
        -1,
        1,
        "leave-one-out ridge accuracy on the hidden layers, now minus at the initial weights",
        INVARIANT,
    ),
    "representation/ridge_error": Key(
        "none",
        0,
        math.inf,
        "squared error of the left-out scores on the hidden layers now, over the labels' variance",
        INVARIANT,
    ),
    **{
        f"representation/{layer}/neighbour_{k}_accuracy": accuracy_key(f"{k}-nearest-neighbour accuracy at {layer} now")
        for layer in LAYERS[1:]
        for k in NEIGHBOURS
    },
}


def representation(probe: Probe) -> Values:
    """Leave-one-out accuracy of ridge and of neighbours on the hidden layers of the network as it is now.

    A network that fits labels by moving samples of one class together raises these scores towards its train accuracy;
    one that fits them one by one, in the last layers only, raises them less. Labels are those that are trained on.

    Keys: `representation/ridge_accuracy`, as `difficulty/ridge_accuracy` but at the present weights (all hidden layers,
    pooled and standardised; the largest over four strengths); `representation/ridge_growth`, that accuracy minus the
    one at the initial weights; `representation/ridge_error`, the smallest over the strengths of the mean squared error
    of the left-out scores, over the variance of the labels (about 1 where nothing is learnt): it still moves where the
    accuracy is 1; `representation/h3/ridge_accuracy`, on h3 alone; for every hidden layer
    `representation/<layer>/neighbour_1_accuracy` and `.../neighbour_10_accuracy` (Euclidean, pooled features). Of more
    than 4,096 samples, 4,096 are compared.

    Cost: one forward pass, two eigendecompositions of an (examples x examples) matrix, and the distances at every
    layer: at 1,000 samples a second or two of one core, worth ten and more forwards of a small network; once per
    training another forward and decomposition. Reference: the kernel's growth with training, Fort et al. 2020 (arXiv
    2010.15110).

    Raises:
        Undefined: there are no hidden layers, fewer than five samples per class that is present, or one class only; or
            it takes more memory than there is, or more than a minute. The growth is absent without initial weights, and
            a layer where the network has none.
    """
    if not probe.layout.taps:
        raise Undefined("there are no hidden layers")
    samples = compared(probe)
    targets = samples.targets
    if len(targets.unique()) < 2:
        raise Undefined("there is one class only")
    layers = {layer: samples.of(rows) for layer, rows in pooled_features(probe).items()}
    features = torch.cat(list(layers.values()), dim=1)
    require_comparison(len(features), features.shape[1])
    scores = left_out_scores(standardised_gram(features), targets)
    accuracy = leave_one_out_accuracy(scores, targets)
    values: dict[str, Value] = {
        "representation/ridge_accuracy": accuracy,
        "representation/ridge_error": leave_one_out_error(scores, targets),
        "representation/ridge_growth": Undefined("there are no initial weights"),
    }
    if probe.initial_state is not None:
        values["representation/ridge_growth"] = accuracy - initial_accuracy(probe, samples)
    if LAST in layers:
        values[f"representation/{LAST}/ridge_accuracy"] = leave_one_out_ridge(layers[LAST], targets)
    for layer in LAYERS[1:]:
        if layer not in layers:
            values[f"representation/{layer}/*"] = Undefined("the network has fewer hidden layers")
            continue
        distance = distances_to_others(layers[layer])
        for neighbours in NEIGHBOURS:
            score = vote_of_neighbours(distance, targets, neighbours)
            values[f"representation/{layer}/neighbour_{neighbours}_accuracy"] = score
    return values


def initial_accuracy(probe: Probe, samples: Compared) -> float:
    """The ridge accuracy at the initial weights, computed once per training for these samples."""
    kept = probe.memory.get(_INITIAL)
    if kept is None or int(kept[1]) != len(probe.targets):
        accuracy = leave_one_out_ridge(samples.of(initial_features(probe)), samples.targets)
        kept = torch.tensor([accuracy, len(probe.targets)], dtype=torch.float64)
        probe.memory[_INITIAL] = kept
    return float(kept[0])
