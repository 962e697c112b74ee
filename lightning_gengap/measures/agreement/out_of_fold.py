"""The class that a reference classifier gives to each sample without having seen the label of that sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.agreement.forest import out_of_bag_scores
from lightning_gengap.measures.difficulty.compared_samples import Compared, compared, compared_inputs
from lightning_gengap.measures.difficulty.difficulty import initial_features
from lightning_gengap.measures.difficulty.input_difficulty import patch_rows
from lightning_gengap.measures.difficulty.leave_one_out_scores import (
    left_out_scores,
    require_comparison,
    standardised_gram,
)
from lightning_gengap.network.probe import Probe


@dataclass(frozen=True)
class OutOfFold:
    """What one reference says of every sample that is compared, without having learnt from it.

    Attributes:
        rows: where these samples stand in the probe, shape (compared,).
        predicted: class indices, shape (compared,).
    """

    rows: Tensor
    predicted: Tensor


def on_patches(probe: Probe, samples: Compared) -> Tensor:
    """Leave-one-out scores of ridge on convolutions with the images' own patches."""
    return best_ridge(probe.cached(patch_rows), samples.targets)


def on_features(probe: Probe, samples: Compared) -> Tensor:
    """Leave-one-out scores of ridge on the features of the network at its initial weights."""
    if probe.initial_state is None:
        raise Undefined("there are no initial weights")
    if not probe.layout.taps:
        raise Undefined("there are no hidden layers")
    return best_ridge(samples.of(probe.cached(initial_features)), samples.targets)


def on_inputs(probe: Probe, samples: Compared) -> Tensor:
    """Out-of-bag shares of the votes of extremely randomised trees on the inputs."""
    inputs = compared_inputs(probe, samples.rows)
    if inputs is None:
        raise Undefined("the inputs are integers or differ in shape")
    return out_of_bag_scores(inputs.flatten(1).float().cpu(), samples.targets, probe.seed)


REFERENCES: dict[str, Callable[[Probe, Compared], Tensor]] = {
    "patch": on_patches,
    "forest": on_inputs,
    "features": on_features,
}
WORDS = {
    "patch": "leave-one-out ridge on the images' own patches",
    "forest": "out-of-bag extremely randomised trees on the inputs",
    "features": "leave-one-out ridge on the untrained network's features",
}


def best_ridge(rows: Tensor, targets: Tensor) -> Tensor:
    """Leave-one-out scores at the strength of the highest accuracy; shape (examples, classes)."""
    require_comparison(len(rows), rows.shape[1])
    found = left_out_scores(standardised_gram(rows), targets)
    return max(found, key=lambda scores: int((scores.argmax(1) == targets).sum()))


def out_of_fold(probe: Probe, name: str) -> OutOfFold:
    """What this reference says. It is computed once per training, and kept by the probe's memory.

    Raises:
        Undefined: it does not exist for these samples, or takes too much memory or time.
    """
    samples, key = compared(probe), f"out_of_fold/{name}"
    predicted = probe.memory.get(key)
    if predicted is None or len(predicted) != len(samples.rows):
        predicted = REFERENCES[name](probe, samples).argmax(1)
        labels = probe.targets[samples.rows]
        if not labels.equal(samples.targets):  # they are numbered anew where their numbers are large
            predicted = labels.unique()[predicted]
        probe.memory[key] = predicted
    return OutOfFold(samples.rows, predicted)
