"""Gradient-normalized margins over the features' concentration within classes, in Wasserstein distance (kV-GN)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.errors import Undefined, frameless
from lightning_gengap.measures.activations import activations_at
from lightning_gengap.measures.key import INVARIANT, Key
from lightning_gengap.measures.margins.margin import margin_signature
from lightning_gengap.measures.margins.margin_metrics import NormalizedMargin
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.layers import LAYERS, Tap
from lightning_gengap.network.probe import Probe

MOST_PER_CLASS = 200
KEYS = {
    **{
        f"k_variance/{layer}": Key(
            "none", -math.inf, math.inf, f"median margin over the classes' Wasserstein spread at {layer}", INVARIANT
        )
        for layer in LAYERS[1:]
    },
    "k_variance/classes": Key("classes", 1, math.inf, "classes with two samples or more in the probe", INVARIANT),
}


def k_variance(probe: Probe) -> Values:
    """The kV-GN margin at each hidden layer: median_i d_i / sum_c pi_c W1_c.

    d_i is the signed distance of sample i to the decision boundary at the layer: the logit gap over the norm of its
    gradient. W1_c is the exact Wasserstein-1 distance (Euclidean cost) between two random halves of at most 200 samples
    of class c, drawn from the probe's seed. pi_c is the class's share. Classes with one sample are skipped.

    Keys `k_variance/<layer>`: larger for wider margins (the published score is its negative), and comparable within one
    architecture. Key `k_variance/classes`: how many classes were used.

    Cost: the shared margins, one forward per layer, and one assignment of about 100 x 100 per class. Reference: Chuang
    et al. 2021 (arXiv 2106.03314).

    Raises:
        Undefined: no class has two samples. A single layer is absent where it has no margins, or features that do not
            vary.
    """
    counts = probe.targets.bincount()
    if not bool((counts >= 2).any()):
        raise Undefined("no class has two samples")
    values: dict[str, Value] = {"k_variance/classes": float((counts >= 2).sum())}
    signature = probe.cached(margin_signature)
    taps = {tap.layer: tap for tap in probe.layout.taps}
    for layer in LAYERS[1:]:
        if layer in signature.layers:
            values[f"k_variance/{layer}"] = _median_over_spread(probe, taps[layer], signature.layers[layer])
        else:
            values[f"k_variance/{layer}"] = Undefined(signature.absent[layer])
    return values


def _median_over_spread(probe: Probe, tap: Tap, margins: NormalizedMargin) -> float | Undefined:
    distances = torch.cat(list(margins.distances))
    distances = distances[distances.isfinite()]
    half = min(MOST_PER_CLASS, int(probe.targets.bincount().max())) // 2
    try:
        features = activations_at(probe, [tap], lambda activation: activation.flatten(1))[tap.layer]
        require_room(4 * 8 * half * (features.shape[1] + half), f"the features of two half classes at {tap.layer}")
    except Undefined as undefined:
        return frameless(undefined)
    spread = mean_class_spread(features, probe.targets, probe.seed)
    if spread > 0 and len(distances) > 0:
        return float(distances.quantile(0.5)) / spread
    return Undefined("its features or gradients do not vary")


def mean_class_spread(features: Tensor, targets: Tensor, seed: int) -> float:
    """Mean over classes, weighted by their shares, of the distance between two halves drawn of the class."""
    generator = torch.Generator().manual_seed(seed)
    total = weight = 0.0
    for label in targets.unique():
        members = (targets == label).nonzero()[:, 0]
        if len(members) < 2:
            continue
        chosen = members[torch.randperm(len(members), generator=generator)[:MOST_PER_CLASS]]
        half = len(chosen) // 2
        total += len(members) * wasserstein(features[chosen[:half]], features[chosen[half : 2 * half]])
        weight += len(members)
    return total / weight


def wasserstein(first: Tensor, second: Tensor) -> float:
    """Exact Wasserstein-1 distance of two point sets of one size: the mean Euclidean cost of the cheapest matching."""
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist").numpy()
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())
