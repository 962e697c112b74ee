"""How hard the training set is, whatever network learns it: leave-one-out scores of closed-form classifiers."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.activations import activations_at
from lightning_gengap.measures.difficulty.leave_one_out_scores import (
    accuracy_key,
    check_enough_samples,
    curve_keys,
    learning_curve,
    leave_one_out_class_means,
    leave_one_out_neighbours,
    leave_one_out_ridge,
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

    Taken once per training. Cost: one forward pass, and an eigendecomposition of an (examples x examples) matrix.
    Reference: none.

    Raises:
        Undefined: there are fewer than five samples per class that is present. Ridge is absent without initial weights
            or hidden layers, neighbours and class means for integer inputs, what is extrapolated where the train size
            is unknown.
    """
    check_enough_samples(probe)
    return {**_on_features(probe), **_on_inputs(probe)}


def _on_features(probe: Probe) -> dict[str, Value]:
    if probe.initial_state is None:
        return {"difficulty/ridge_*": Undefined("there are no initial weights")}
    if not probe.layout.taps:
        return {"difficulty/ridge_*": Undefined("there are no hidden layers; layers=[...] can name some")}
    return learning_curve("difficulty/ridge", leave_one_out_ridge, initial_features(probe), probe)


def _on_inputs(probe: Probe) -> dict[str, Value]:
    if probe.inputs is None:
        reason = Undefined("the inputs are integers or differ in shape")
        return {"difficulty/neighbour_*": reason, "difficulty/class_mean_accuracy": reason}
    flat = probe.inputs.reshape(len(probe.inputs), -1).cpu()
    ten = partial(leave_one_out_neighbours, neighbours=10)
    return {
        "difficulty/neighbour_1_accuracy": leave_one_out_neighbours(flat, probe.targets, 1),
        **learning_curve("difficulty/neighbour_10", ten, flat, probe),
        "difficulty/class_mean_accuracy": leave_one_out_class_means(flat, probe.targets),
    }


def initial_features(probe: Probe) -> Tensor:
    """Hidden representations at the initial weights, pooled and concatenated; (examples, features), float64, CPU."""
    return torch.cat(list(pooled_features(probe, probe.initial_state).values()), dim=1)


def pooled_features(probe: Probe, state: State | None = None) -> dict[str, Tensor]:
    """Pooled hidden representations by layer, optionally at other weights; (examples, features), float64, CPU."""
    return {layer: rows.double() for layer, rows in activations_at(probe, probe.layout.taps, _pooled, state).items()}


def _pooled(activation: Tensor) -> Tensor:
    """Images averaged over a grid of 4 x 4, sequences over their tokens; flattened."""
    if activation.ndim == 4:
        height, width = activation.shape[2:]
        activation = adaptive_avg_pool2d(activation, (min(4, height), min(4, width)))
    elif activation.ndim == 3:
        activation = activation.mean(dim=1)
    return activation.reshape(len(activation), -1)
