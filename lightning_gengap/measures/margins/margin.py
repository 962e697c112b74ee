"""Normalized margin distributions at the input and three hidden layers (Jiang et al. 2019), and output margins."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.key import FUNCTION, INVARIANT, NO, OPEN, YES, Invariances, Key
from lightning_gengap.measures.values import Histogram, Value, Values
from lightning_gengap.network.layers import LAYERS
from lightning_gengap.network.probe import Probe

STATISTICS = {
    "lower_whisker": "lower Tukey whisker",
    "q1": "first quartile",
    "median": "median",
    "q3": "third quartile",
    "upper_whisker": "upper Tukey whisker",
}
QUANTILES = {"q05": "5 % quantile", "q10": "10 % quantile", "median": "median", "mean": "mean"}
FEWEST_CORRECT = 10


def _keys_of(layer: str) -> dict[str, Key]:
    of = f"of the normalized margin at {layer}, correctly classified samples"
    return {
        **{
            f"margin/{layer}/{name}": Key("none", 0, math.inf, f"{words} {of}", INVARIANT)
            for name, words in STATISTICS.items()
        },
        f"margin/{layer}/total_variation": Key(
            "activation",
            0,
            math.inf,
            f"total variation of the activations at {layer}",
            INVARIANT if layer == "input" else Invariances(YES, NO, OPEN),
        ),
        f"margin/{layer}": Key(
            "none", -math.inf, math.inf, f"signed normalized margins at {layer}", INVARIANT, kind="histogram"
        ),
    }


KEYS = {
    **{key: declared for layer in LAYERS for key, declared in _keys_of(layer).items()},
    **{
        f"margin/output/{name}": Key("logits", -math.inf, math.inf, f"{words} of the output margin", FUNCTION)
        for name, words in QUANTILES.items()
    },
    "margin/correct_fraction": Key("fraction", 0, 1, "share of the probe with a positive margin", INVARIANT),
}


class NormalizedMargin(Metric):
    """The distribution of distance to the decision boundary over total variation, at one layer.

    `update` takes, per example, the signed distance (logit gap over the gradient's norm at the layer) and the
    layer's activations; `compute` gives the five Tukey statistics of the correctly classified examples' margins,
    and the total variation of the activations over all examples.

    Invariant to a scaling of the logits and, activations included, to ReLU rescaling of adjacent layers. Unit:
    none; statistics are positive. Reference: Jiang et al., "Predicting the Generalization Gap in Deep Networks
    with Margin Distributions", ICLR 2019 (arXiv 1810.00113); total variation is not divided by n here.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    distances: list[Tensor]
    activation_sum: Tensor
    activation_square_sum: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("distances", default=[], dist_reduce_fx="cat")
        self.add_state("activation_sum", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("activation_square_sum", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, distance: Tensor, activation: Tensor) -> None:
        """Add a batch.

        Args:
            distance: shape (examples,), in units of the activation; non-finite entries are undefined margins.
            activation: shape (examples, ...), the layer's representation of the same examples.
        """
        total, squares = _moments(activation)
        self.distances.append(distance.detach().double())
        self.activation_sum = self.activation_sum + total
        self.activation_square_sum = self.activation_square_sum + squares
        self.count = self.count + len(activation)

    def compute(self) -> dict[str, Tensor]:
        """The statistics by name; the five are absent with fewer than ten correctly classified examples."""
        values = {"total_variation": self.total_variation()}
        margins = self.margins()
        correct = margins[(margins > 0) & margins.isfinite()]
        return values | (tukey_statistics(correct) if len(correct) >= FEWEST_CORRECT else {})

    def total_variation(self) -> Tensor:
        """Square root of the summed variances (ddof 0) of the activation's features."""
        mean_square = self.activation_square_sum / self.count
        square_mean = (self.activation_sum / self.count).square().sum()
        return (mean_square - square_mean).clamp(min=0).sqrt()

    def margins(self) -> Tensor:
        """All signed normalized margins so far, for a histogram; shape (examples,)."""
        distances = torch.cat(self.distances) if isinstance(self.distances, list) else self.distances
        return distances / self.total_variation()


class OutputMargin(Metric):
    """Quantiles of the unnormalized margin: the true class's logit minus the largest other.

    Unit: logits, unbounded, signed; scales with the logits. Reference: Bartlett et al. 2017 (arXiv 1706.08498).
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    gaps: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("gaps", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch of logits, shape (examples, classes), and class indices, shape (examples,)."""
        self.gaps.append(logit_gap(logits.detach().double(), targets))

    def compute(self) -> dict[str, Tensor]:
        """The 5 %, 10 % and 50 % quantiles and the mean, over all examples."""
        gaps = torch.cat(self.gaps) if isinstance(self.gaps, list) else self.gaps
        levels = torch.tensor([0.05, 0.1, 0.5], dtype=gaps.dtype, device=gaps.device)
        q05, q10, median = gaps.quantile(levels)
        return {"q05": q05, "q10": q10, "median": median, "mean": gaps.mean()}


@dataclass(frozen=True)
class Signature:
    """What one margin pass yields.

    Attributes:
        layers: an accumulator per layer.
        logits: shape (examples, classes).
        unreached: layers that are watched and that no gradient of the logits reaches.
    """

    layers: dict[str, NormalizedMargin]
    logits: Tensor
    unreached: tuple[str, ...] = ()


def logit_gap(logits: Tensor, targets: Tensor) -> Tensor:
    """The target's logit minus the largest other logit; shape (examples,), negative where misclassified."""
    own = logits.gather(1, targets[:, None])[:, 0]
    others = logits.scatter(1, targets[:, None], -torch.inf)
    return own - others.amax(dim=1)


def tukey_statistics(values: Tensor) -> dict[str, Tensor]:
    """Quartiles (linear interpolation) and whiskers: the extreme data within 1.5 interquartile ranges of them."""
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype, device=values.device)
    q1, median, q3 = values.quantile(levels)
    reach = 1.5 * (q3 - q1)
    lower = torch.minimum(values[values >= q1 - reach].min(), q1)
    upper = torch.maximum(values[values <= q3 + reach].max(), q3)
    return dict(zip(STATISTICS, (lower, q1, median, q3, upper), strict=True))


def margin_signature(probe: Probe) -> Signature:
    """Margins at every layer of the probe: one forward and one activation-only backward for all together.

    The runner-up is the largest other logit; its choice and the norm are constants of the derivative. Examples
    do not interact in eval mode, so the gradient of the summed gaps is every example's own.
    """
    metrics: dict[str, NormalizedMargin] = {}
    all_logits = []
    for batch in probe.batches:
        inputs = None if batch.inputs is None else batch.inputs.detach().requires_grad_()
        with probe.tapped() as caught:
            content = batch.content if inputs is None else batch.with_inputs(inputs)
            logits = probe.logits_on(content, len(batch.targets))
        tensors = ({} if inputs is None else {"input": inputs}) | dict(caught)
        gap = logit_gap(logits, batch.targets.to(logits.device))
        gradients = _gradients(gap.sum(), tensors.values())
        all_logits.append(logits.detach().double().cpu())
        gap = gap.detach().double()
        for (layer, tensor), gradient in zip(tensors.items(), gradients, strict=True):
            if gradient is not None:
                norm = _row_norms(gradient)
                metric = metrics.setdefault(layer, NormalizedMargin(sync_on_compute=False).to(tensor.device))
                metric.update(gap / norm, tensor.detach())
    watched = [*(["input"] if probe.batches[0].inputs is not None else []), *(tap.layer for tap in probe.layout.taps)]
    unreached = tuple(layer for layer in watched if layer not in metrics)
    return Signature({layer: metrics[layer] for layer in LAYERS if layer in metrics}, torch.cat(all_logits), unreached)


def _gradients(total: Tensor, tensors: Iterable[Tensor]) -> tuple[Tensor | None, ...]:
    """Derivatives by each tensor; None for those that `total` does not depend on."""
    tensors = tuple(tensors)
    if not tensors or not total.requires_grad:
        return (None,) * len(tensors)
    return torch.autograd.grad(total, tensors, allow_unused=True)


def _row_norms(gradient: Tensor) -> Tensor:
    """Euclidean norm per example in float64; float32 sums unless they would leave their range (8 times slower)."""
    rows = gradient.flatten(1)
    norms = torch.linalg.vector_norm(rows, dim=1)
    if rows.dtype == torch.float64 or bool(((norms > 1e-15) & (norms < 1e15)).all()):
        return norms.double()
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)


def _moments(activation: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over examples, shape (features,), and sum of all squares; float64 from float32 partial sums."""
    flat = activation.detach().flatten(1)
    if flat.dtype != torch.float64:
        flat = flat.float()
    total, squares = _sums(flat)
    if squares - total.square().sum() / len(flat) < 1e-3 * squares:  # the mean dominates: float32 would cancel
        total, squares = _sums(flat.double())
    return total, squares


def _sums(flat: Tensor) -> tuple[Tensor, Tensor]:
    return flat.sum(0).double(), torch.linalg.vector_norm(flat, dim=1).double().square().sum()


def margin(probe: Probe) -> Values:
    """The normalized margin signature and the output margins.

    Keys `margin/<layer>/<statistic>`, `margin/<layer>/total_variation`, `margin/output/<quantile>` and
    `margin/correct_fraction`; the histogram of a layer is `margin/<layer>`. Cost: two forward passes' worth of
    arithmetic (one forward, one activation-only backward) for all layers. References: Jiang et al. 2019 (arXiv
    1810.00113), Bartlett et al. 2017 (arXiv 1706.08498).
    """
    signature = probe.cached(margin_signature)
    values: dict[str, Value] = {}
    for layer, metric in signature.layers.items():
        values |= {f"margin/{layer}/{name}": float(value) for name, value in metric.compute().items()}
        values[f"margin/{layer}"] = Histogram(metric.margins().cpu())
    for layer in signature.unreached:
        values[f"margin/{layer}*"] = Undefined("no gradient of the logits reaches this layer")
    output = OutputMargin(sync_on_compute=False)
    output.update(signature.logits, probe.targets)
    values |= {f"margin/output/{name}": float(value) for name, value in output.compute().items()}
    correct = (logit_gap(signature.logits, probe.targets) > 0).double().mean()
    return values | {"margin/correct_fraction": float(correct)}
