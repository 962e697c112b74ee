"""Gradient-normalized margins over the features' concentration within classes, in Wasserstein distance (kV-GN)."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lightning_gengap.measures.margins.margin import margin_signature
from lightning_gengap.network.layers import Tap
from lightning_gengap.network.probe import Probe

MOST_PER_CLASS = 200


def k_variance(probe: Probe) -> dict[str, float]:
    """The kV-GN margin at each hidden layer: median_i d_i / sum_c pi_c W1_c.

    d_i is the signed distance to the decision boundary at the layer, logit gap over gradient norm, of all samples;
    W1_c the exact Wasserstein-1 distance (Euclidean cost) between two random halves of at most 200 samples of class
    c, drawn from the probe's seed; pi_c the class's share. Classes with one sample are skipped.

    Keys `k_variance/<layer>`, no unit, signed, larger for wider margins (the published score is its negative), and
    `k_variance/classes`, how many classes were used. Invariant to a scaling of the logits and to ReLU rescaling.
    Compares within one architecture. Cost: the shared margins, one forward per layer, and one assignment of about
    100 x 100 per class. Reference: Chuang et al. 2021 (arXiv 2106.03314).
    """
    counts = probe.targets.bincount()
    values = {"k_variance/classes": float((counts >= 2).sum())}
    if values["k_variance/classes"] == 0:
        probe.notes.append("k_variance/* is absent: no class has two samples")
        return {}
    layers = probe.cached(margin_signature).layers
    for tap in probe.layout.taps:
        if tap.layer not in layers:
            continue
        distances = torch.cat(list(layers[tap.layer].distances))
        distances = distances[distances.isfinite()]
        spread = mean_class_spread(features_at(probe, tap), probe.targets, probe.seed)
        if spread > 0 and len(distances) > 0:
            values[f"k_variance/{tap.layer}"] = float(distances.quantile(0.5)) / spread
        else:
            probe.notes.append(f"k_variance/{tap.layer} is absent: its features or gradients do not vary")
    return values


def features_at(probe: Probe, tap: Tap) -> Tensor:
    """The flattened representation of every sample at one tap, on the CPU; shape (examples, features)."""
    rows = []
    with torch.no_grad():
        for batch in probe.batches:
            with probe.tapped([tap]) as caught:
                probe.logits_on(batch.content, len(batch.targets))
            rows.append(caught[tap.layer].flatten(1).cpu())
    return torch.cat(rows)


def mean_class_spread(features: Tensor, targets: Tensor, seed: int) -> float:
    """Mean over classes, weighted by their shares, of the distance between two halves of the class.

    Args:
        features: shape (examples, features).
        targets: class indices, shape (examples,).
        seed: of the choice of samples and halves.
    """
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
    """Exact Wasserstein-1 distance, Euclidean cost, of two point sets of one size: the cheapest matching's mean."""
    cost = torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist").numpy()
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())
