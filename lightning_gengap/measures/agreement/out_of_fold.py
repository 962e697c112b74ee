"""The class that a reference classifier gives to each sample without having seen the label of that sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
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
        lead: by how much the score of that class exceeds the score of the sample's label; 0 where they are the same
            class. The unit is the reference's own.
    """

    rows: Tensor
    predicted: Tensor
    lead: Tensor


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
    kept = probe.memory.get(key)
    if kept is None or kept.shape[1] != len(samples.rows):
        scores = REFERENCES[name](probe, samples)
        top = scores.max(dim=1)
        lead = top.values - scores.gather(1, samples.targets[:, None])[:, 0]
        labels = probe.targets[samples.rows]
        predicted = top.indices if labels.equal(samples.targets) else labels.unique()[top.indices]
        kept = torch.stack([predicted.double(), lead.double()])
        probe.memory[key] = kept
    return OutOfFold(samples.rows, kept[0].long(), kept[1])
