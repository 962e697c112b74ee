"""How tangled the classes are early in the network, times how fragile same-class mixes are (PGDL 2020's winner)."""

from __future__ import annotations

import torch
from sklearn.metrics import davies_bouldin_score
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from lightning_gengap.measures.perturbation.perturbation import same_class_mixes
from lightning_gengap.network.layers import CalledModule, Tap
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.trace import clean_name

_FIRST_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
SIDE = 4


def separability(probe: Probe) -> dict[str, float]:
    """Davies-Bouldin index of the classes at the first weight layer, and its product with the errors on mixes.

    Keys `separability/davies_bouldin`: mean over classes of the largest (spread_a + spread_b) / distance of means,
    on the first convolution's output max-pooled to 4 x 4 (a first linear layer's as it is), no unit, non-negative,
    lower is better separated; `separability/score`: that times (1 - accuracy on half-half mixes of two samples of
    one class), the pairs drawn from the probe's seed. Invariant to a scaling of the logits and to ReLU rescaling.
    Absent, with one note, for inputs that are not images. Compares within one architecture. Cost: two forward
    passes. Reference: Natekar and Sharma 2020 (arXiv 2012.02775); the published index is averaged over subsets.
    """
    images, first = probe.inputs, first_layer(probe)
    if images is None or images.ndim != 4 or first is None:
        probe.notes.append("separability/* is absent: it needs image inputs and a linear or convolutional layer")
        return {}
    features = pooled_features(probe, first)
    present = len(probe.targets.unique())
    if not 2 <= present < len(probe.targets) or not bool(features.isfinite().all()):
        probe.notes.append("separability/* is absent: it needs finite features, two classes and two samples of one")
        return {}
    index = float(davies_bouldin_score(features.numpy(), probe.targets.numpy()))
    mixes = same_class_mixes(images, probe.targets, torch.Generator().manual_seed(probe.seed))
    return {
        "separability/davies_bouldin": index,
        "separability/score": index * (1 - probe.accuracy_on(mixes, probe.targets)),
    }


def pooled_features(probe: Probe, layer: CalledModule) -> Tensor:
    """The layer's output at its first call, images max-pooled to 4 x 4; shape (examples, features), float64, CPU."""
    tap = Tap("first", layer.module, "output", clone=True)  # a copy: an in-place activation may follow
    rows = []
    with torch.no_grad():
        for batch in probe.batches:
            with probe.tapped([tap]) as caught:
                probe.logits_on(batch.content, len(batch.targets))
            output = caught[tap.layer]
            rows.append((adaptive_max_pool2d(output, SIDE) if output.ndim == 4 else output).flatten(1).cpu().double())
    return torch.cat(rows)


def first_layer(probe: Probe) -> CalledModule | None:
    """The first linear or convolutional layer that the forward calls."""
    modules = {clean_name(name): module for name, module in probe.model.named_modules()}
    return next((met for met in probe.layout.ran if isinstance(modules[met.module], _FIRST_LAYERS)), None)
