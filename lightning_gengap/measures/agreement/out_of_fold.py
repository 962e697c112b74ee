"""The class that a reference classifier gives to each sample without having seen the label of that sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.agreement.forest import out_of_bag_scores
from lightning_gengap.measures.difficulty.difficulty import initial_features
from lightning_gengap.measures.difficulty.input_difficulty import patch_rows
from lightning_gengap.measures.difficulty.leave_one_out_scores import left_out_scores, standardised_gram
from lightning_gengap.network.probe import Probe


@dataclass(frozen=True)
class OutOfFold:
    """What one reference says of every sample that it did not learn from.

    Attributes:
        predicted: class indices, shape (examples,).
        lead: by how much the score of that class exceeds the score of the sample's label; 0 where they are the same
            class. The unit is the reference's own.
    """

    predicted: Tensor
    lead: Tensor

    def accuracy(self, targets: Tensor) -> float:
        """The share of the samples whose label is predicted."""
        return float((self.predicted == targets).double().mean())


def on_patches(probe: Probe) -> Tensor:
    """Leave-one-out scores of ridge on convolutions with the images' own patches."""
    return best_ridge(probe.cached(patch_rows), probe.targets)


def on_features(probe: Probe) -> Tensor:
    """Leave-one-out scores of ridge on the features of the network at its initial weights."""
    if probe.initial_state is None:
        raise Undefined("there are no initial weights")
    if not probe.layout.taps:
        raise Undefined("there are no hidden layers")
    return best_ridge(probe.cached(initial_features), probe.targets)


def on_inputs(probe: Probe) -> Tensor:
    """Out-of-bag shares of the votes of extremely randomised trees on the inputs."""
    inputs = probe.inputs
    if inputs is None:
        raise Undefined("the inputs are integers or differ in shape")
    return out_of_bag_scores(inputs.flatten(1).float().cpu(), probe.targets, probe.seed)


REFERENCES: dict[str, Callable[[Probe], Tensor]] = {"patch": on_patches, "forest": on_inputs, "features": on_features}
WORDS = {
    "patch": "leave-one-out ridge on the images' own patches",
    "forest": "out-of-bag extremely randomised trees on the inputs",
    "features": "leave-one-out ridge on the untrained network's features",
}


def best_ridge(rows: Tensor, targets: Tensor) -> Tensor:
    """Leave-one-out scores at the strength of the highest accuracy; shape (examples, classes)."""
    found = left_out_scores(standardised_gram(rows), targets)
    return max(found, key=lambda scores: int((scores.argmax(1) == targets).sum()))


def out_of_fold(probe: Probe, name: str) -> OutOfFold:
    """What this reference says. It is computed once per training, and kept by the probe's memory.

    Raises:
        Undefined: it does not exist for these samples.
    """
    kept = probe.memory.get(_key(name))
    if kept is None or kept.shape[1] != len(probe.targets):
        scores = REFERENCES[name](probe)
        top = scores.max(dim=1)
        lead = top.values - scores.gather(1, probe.targets[:, None])[:, 0]
        kept = torch.stack([top.indices.double(), lead.double()])
        probe.memory[_key(name)] = kept
    return OutOfFold(kept[0].long(), kept[1])


def _key(name: str) -> str:
    return f"out_of_fold/{name}"
