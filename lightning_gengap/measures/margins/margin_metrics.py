"""Accumulators of margins, as torchmetrics: normalized margins at one layer, and margins of the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_gengap.derivatives.per_sample import precise

STATISTICS = {
    "lower_whisker": "lower Tukey whisker",
    "q1": "first quartile",
    "median": "median",
    "q3": "third quartile",
    "upper_whisker": "upper Tukey whisker",
}
FEWEST_CORRECT = 10
_LEAST, _MOST = 1e-30, 1e30  # sums of squares that leave the range of float32 nowhere on the way


class NormalizedMargin(Metric):
    """The distribution, at one layer, of the distance to the decision boundary over the total variation.

    `update` takes, per example, the signed distance (the logit gap over the norm of its gradient at the layer) and the
    layer's activations. `compute` gives the total variation of the activations over all examples, and the five Tukey
    statistics of the margins of the correctly classified examples. The statistics are positive and have no unit.
    Scaling the logits changes nothing; neither does rescaling of adjacent layers around a ReLU, activations included.

    Reference: Jiang et al., "Predicting the Generalization Gap in Deep Networks with Margin Distributions", ICLR 2019
    (arXiv 1810.00113); the total variation is not divided by the number of examples here.

    Example:
        >>> import torch
        >>> from lightning_gengap import NormalizedMargin
        >>> metric = NormalizedMargin()
        >>> metric.update(torch.linspace(1, 2, 11), torch.eye(11))
        >>> round(float(metric.compute()["median"] * metric.total_variation()), 3)
        1.5
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
        # In float32 until something is added: not every device has float64.
        self.add_state("activation_sum", default=torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("activation_square_sum", default=torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, distance: Tensor, activation: Tensor) -> None:
        """Add a batch.

        Args:
            distance: shape (examples,), in units of the activation; non-finite entries are undefined margins.
            activation: shape (examples, ...), the layer's representation of the same examples.
        """
        total, squares = _moments(activation)
        self.add_sums(_precise(distance.detach()), total, squares, len(activation))

    def add_sums(self, distance: Tensor, total: Tensor, squares: Tensor, count: int) -> None:
        """Add `count` examples by the sum of their activations, shape (features,), and that of all squares."""
        self.distances.append(distance)
        self.activation_sum = self.activation_sum + total
        self.activation_square_sum = self.activation_square_sum + squares
        self.count = self.count + count

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

    In logits, signed and unbounded; it scales with the logits. Reference: Bartlett et al. 2017 (arXiv 1706.08498).

    Example:
        >>> import torch
        >>> from lightning_gengap import OutputMargin
        >>> metric = OutputMargin()
        >>> metric.update(torch.tensor([[3.0, 1.0], [0.0, 2.0], [0.5, 0.0]]), torch.tensor([0, 0, 0]))
        >>> float(metric.compute()["median"])
        0.5
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
        self.gaps.append(logit_gap(_precise(logits.detach()), targets))

    def compute(self) -> dict[str, Tensor]:
        """The 5 %, 10 % and 50 % quantiles and the mean, over all examples."""
        gaps = torch.cat(self.gaps) if isinstance(self.gaps, list) else self.gaps
        levels = torch.tensor([0.05, 0.1, 0.5], dtype=gaps.dtype, device=gaps.device)
        q05, q10, median = gaps.quantile(levels)
        return {"q05": q05, "q10": q10, "median": median, "mean": gaps.mean()}


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


def _moments(activation: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over examples, shape (features,), and sum of all squares; in `_precise`, summed in float32 by batch."""
    flat = activation.detach().reshape(len(activation), -1)
    if flat.dtype != torch.float64:
        flat = flat.float()
    total, squares = _sums(flat)
    cancels = squares - total.square().sum() / len(flat) < 1e-3 * squares  # the mean dominates
    if cancels or not _LEAST < squares < _MOST:
        total, squares = _sums(_precise(flat))
    return total, squares


def _sums(flat: Tensor) -> tuple[Tensor, Tensor]:
    return _precise(flat.sum(0)), _precise(torch.linalg.vector_norm(flat, dim=1)).square().sum()


def _precise(tensor: Tensor) -> Tensor:
    """In float64 where the device has it."""
    return tensor.to(precise(tensor.device))
