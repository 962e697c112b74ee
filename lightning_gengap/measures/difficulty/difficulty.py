"""How hard the training set is, whatever network learns it: leave-one-out scores of closed-form classifiers."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

from lightning_gengap.errors import Undefined, frameless
from lightning_gengap.measures.activations import activations_at
from lightning_gengap.measures.difficulty.compared_samples import Compared, compared, compared_inputs
from lightning_gengap.measures.difficulty.leave_one_out_scores import (
    accuracy_key,
    curve_keys,
    distances_to_others,
    learning_curve,
    leave_one_out_class_means,
    leave_one_out_ridge,
    vote_of_neighbours,
)
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.probe import Probe, State

KEYS = {
    **curve_keys("difficulty/ridge", "ridge accuracy on the untrained network's features"),
    "difficulty/neighbour_1_accuracy": accuracy_key("1-nearest-neighbour accuracy"),
    **curve_keys("difficulty/neighbour_10", "10-nearest-neighbour accuracy"),
    "difficulty/class_mean_accuracy": accuracy_key("nearest-class-mean accuracy"),
}


def difficulty(probe: Probe) -> Values:
    """Leave-one-out accuracy of ridge on the untrained network's features, and of neighbours on the inputs.

    Keys, higher for easier data: `difficulty/ridge_accuracy` (features of h1 to h3 of the network at its
    initial weights, in eval mode; the largest over four ridge strengths), `difficulty/neighbour_1_accuracy` and
    `difficulty/neighbour_10_accuracy` (Euclidean, on flattened inputs), `difficulty/class_mean_accuracy` (nearest class
    mean; the own class's mean is taken without the point). For ridge and ten neighbours also `..._growth` and
    `..._extrapolated` to the train size, see `learning_curve`.

    The inputs are compared as they are, images of more than 64 pixels a side averaged down to 64. Of more than 4,096
    samples, 4,096 are compared.

    Taken once per training, and only what is wanted. Cost: one forward pass, and an eigendecomposition of an (examples
    x examples) matrix. Reference: none.

    Raises:
        Undefined: there are fewer than five samples per class that is present. Ridge is absent without initial weights
            or hidden layers, neighbours and class means for integer inputs, what is extrapolated where the train size
            is unknown, and what takes more memory than there is, or more than a minute.
    """
    samples = compared(probe)
    return {**_on_features(probe, samples), **_on_inputs(probe, samples)}


def _wants(probe: Probe, start: str) -> bool:
    return any(probe.wants(key) for key in KEYS if key.startswith(start))


def _on_features(probe: Probe, samples: Compared) -> dict[str, Value]:
    if not _wants(probe, "difficulty/ridge"):
        return {}
    if probe.initial_state is None:
        return {"difficulty/ridge_*": Undefined("there are no initial weights")}
    if not probe.layout.taps:
        return {"difficulty/ridge_*": Undefined("there are no hidden layers; layers=[...] can name some")}
    try:
        features = samples.of(initial_features(probe))
    except Undefined as undefined:
        return {"difficulty/ridge_*": frameless(undefined)}
    return learning_curve("difficulty/ridge", leave_one_out_ridge, features, samples.targets, probe.train_samples)


def _on_inputs(probe: Probe, samples: Compared) -> dict[str, Value]:
    names = ("difficulty/neighbour_1_accuracy", "difficulty/neighbour_10", "difficulty/class_mean_accuracy")
    one, ten, means = (_wants(probe, name) for name in names)
    if not (one or ten or means):
        return {}
    try:
        inputs = compared_inputs(probe, samples.rows)
        if inputs is None:
            raise Undefined(probe.why_no_inputs)
    except Undefined as undefined:
        reason = frameless(undefined)
        return {"difficulty/neighbour_*": reason, "difficulty/class_mean_accuracy": reason}
    flat = inputs.reshape(len(inputs), -1).cpu()
    values: dict[str, Value] = {}
    if one or ten:
        try:
            distance = distances_to_others(flat)
        except Undefined as undefined:
            values["difficulty/neighbour_*"] = frameless(undefined)
        else:
            if one:
                values[names[0]] = vote_of_neighbours(distance, samples.targets, 1)
            if ten:
                among_ten = partial(vote_of_neighbours, neighbours=10)
                train = probe.train_samples
                values |= learning_curve(names[1], among_ten, distance, samples.targets, train, square=True)
    if means:
        values[names[2]] = leave_one_out_class_means(flat, samples.targets)
    return values


def initial_features(probe: Probe) -> Tensor:
    """Hidden representations at the initial weights, pooled and concatenated; (examples, features), float64, CPU."""
    return torch.cat(list(pooled_features(probe, probe.initial_state).values()), dim=1)


def pooled_features(probe: Probe, state: State | None = None) -> dict[str, Tensor]:
    """Pooled hidden representations by layer, optionally at other weights; (examples, features), float64, CPU."""
    return {layer: rows.double() for layer, rows in activations_at(probe, probe.layout.taps, _pooled, state).items()}


def _pooled(activation: Tensor) -> Tensor:
    """Images averaged over a grid of 4 x 4, volumes over 4 x 4 x 4, sequences over their tokens; flattened."""
    if activation.ndim == 5:
        depth, height, width = activation.shape[2:]
        activation = adaptive_avg_pool3d(activation, (min(4, depth), min(4, height), min(4, width)))
    elif activation.ndim == 4:
        height, width = activation.shape[2:]
        activation = adaptive_avg_pool2d(activation, (min(4, height), min(4, width)))
    elif activation.ndim == 3:
        activation = activation.mean(dim=1)
    return activation.reshape(len(activation), -1)
