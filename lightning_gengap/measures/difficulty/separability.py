"""How tangled the classes are early in the network, times how fragile same-class mixes are (PGDL 2020's winner)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.activations import activations_at, first_weight_layer
from lightning_gengap.measures.key import INVARIANT, Key
from lightning_gengap.measures.perturbation.perturbation import images_of, same_class_mixes
from lightning_gengap.measures.values import Values
from lightning_gengap.network.probe import Probe

SIDE = 4
KEYS = {
    "separability/davies_bouldin": Key(
        "none", 0, math.inf, "Davies-Bouldin index of the classes at the first layer", INVARIANT
    ),
    "separability/score": Key(
        "none", 0, math.inf, "that index times the error on same-class half-half mixes", INVARIANT
    ),
}


def separability(probe: Probe) -> Values:
    """Davies-Bouldin index of the classes at the first weight layer, and its product with the errors on mixes.

    Key `separability/davies_bouldin`: the mean over classes of the largest (spread_a + spread_b) / distance of means,
    on the first convolution's output max-pooled to 4 x 4 (on a first linear layer's output as it is). It is lower for
    classes that are better separated. Key `separability/score`: that times (1 - accuracy on half-half mixes of two
    samples of one class), the pairs drawn from the probe's seed. Both are comparable within one architecture.

    Cost: two forward passes. Reference: Natekar and Sharma 2020 (arXiv 2012.02775); the published index is averaged
    over subsets.

    Raises:
        Undefined: the inputs are not images, no linear or convolutional layer is called, its output is not finite or
            has no samples on its first axis, there is one class only, or no class has two samples.
    """
    from sklearn.metrics import davies_bouldin_score

    images, first = images_of(probe), first_weight_layer(probe)
    features = activations_at(probe, [first], _pooled)[first.layer].double()
    if len(features) != len(probe.targets):
        raise Undefined(f"the samples are not on the first axis of the output of {first.module}")
    present = len(probe.targets.unique())
    if not 2 <= present < len(probe.targets) or not bool(features.isfinite().all()):
        raise Undefined("it needs finite features, two classes and two samples of one")
    index = float(davies_bouldin_score(features.numpy(), probe.targets.numpy()))
    mixes = same_class_mixes(images, probe.targets, torch.Generator().manual_seed(probe.seed))
    return {
        "separability/davies_bouldin": index,
        "separability/score": index * (1 - probe.accuracy_on(mixes, probe.targets)),
    }


def _pooled(output: Tensor) -> Tensor:
    """Images max-pooled to 4 x 4; flattened."""
    return (adaptive_max_pool2d(output, SIDE) if output.ndim == 4 else output).flatten(1)
