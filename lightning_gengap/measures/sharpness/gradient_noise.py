"""The spread of the per-sample gradients, and the cheapest form of the Takeuchi criterion (Thomas et al. 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp
from torch.nn.functional import one_hot

from lightning_gengap.derivatives.per_sample import (
    defined_where_it_succeeds,
    per_sample,
    precise,
    require_room_for,
)
from lightning_gengap.derivatives.weights import require_gradients, trained
from lightning_gengap.errors import Undefined
from lightning_gengap.measures.key import NEARLY, NO, Invariances, Key
from lightning_gengap.measures.values import Value, Values
from lightning_gengap.network.probe import Probe

Parameters = dict[str, Tensor]
_NONE = Invariances(NO, NO, NO)

KEYS = {
    "gradient_noise/trace": Key(
        "squared nats per squared weight", 0, math.inf, "summed variance of per-sample gradients", _NONE
    ),
    "gradient_noise/signal": Key(
        "none",
        0,
        math.inf,
        "mean of squared mean over variance of per-sample gradients",
        Invariances(NO, NEARLY, NEARLY),
    ),
    "gradient_noise/curvature": Key(
        "nats per squared weight", 0, math.inf, "trace of the Gauss-Newton matrix, estimated", _NONE
    ),
    "gradient_noise/criterion": Key(
        "nats", 0, math.inf, "gradient variance over samples times Gauss-Newton trace", _NONE
    ),
}


@dataclass
class Sums:
    """Running sums over samples, in float64. Where the device has none, they are on the CPU.

    By parameter, of the gradients g and of the squares of their entries; over all, of |g|^2 and of |J^T B u|^2.
    """

    gradient: Parameters
    square: Parameters
    norms: float | Tensor = 0.0
    curvature: float | Tensor = 0.0
    count: int = 0

    def add(self, gradients: Parameters, curvatures: Parameters) -> None:
        """Add some samples; shapes (examples, ...)."""
        for name, rows in gradients.items():
            rows = _precise(rows)
            self.gradient[name] += rows.sum(dim=0)
            squares = rows.square().sum(dim=0)
            self.square[name] += squares
            self.norms = self.norms + squares.sum()
            self.curvature = self.curvature + _precise(curvatures[name]).square().sum()
        self.count += len(next(iter(gradients.values())))


def gradient_noise(probe: Probe) -> Values:
    """Variance and signal of the per-sample gradients g_i of the cross-entropy, over all trainable parameters.

    Keys: `gradient_noise/trace` is Tr C = mean |g_i|^2 - |mean g|^2. `gradient_noise/signal` is the mean of
    (mean g)^2 / variance over parameters. `gradient_noise/curvature` estimates the trace of the Gauss-Newton matrix
    without bias: (1/n) sum_i |J_i^T B_i u_i|^2 with B B^T = diag(p) - p p^T and seeded random signs u.
    `gradient_noise/criterion` is Tr C / (n Tr G), n the number of training samples: a stand-in for the gap of the loss,
    which vanishes where the samples are interpolated.

    All fall with the training loss, next to which they are to be read. The signal is absent where no gradient varies,
    the criterion without n. Cost: a forward and two full backwards per sample, in time 12 to 22 forwards.

    Raises:
        Undefined: per-sample derivatives fail, or no gradient reaches a parameter.

    References: Thomas et al. 2020 (arXiv 1906.07774), Jiang et al. 2020 (arXiv 1912.02178).
    """
    require_gradients(probe)
    with defined_where_it_succeeds():
        sums = summed_gradients(probe)
    mean = torch.cat([total.flatten() for total in sums.gradient.values()]) / sums.count
    square = torch.cat([total.flatten() for total in sums.square.values()]) / sums.count
    trace = max(float(sums.norms) / sums.count - float(mean.square().sum()), 0.0)
    curvature = float(sums.curvature) / sums.count
    values: dict[str, Value] = {"gradient_noise/trace": trace, "gradient_noise/curvature": curvature}
    values["gradient_noise/signal"] = _signal(mean, (square - mean.square()).clamp(min=0))
    if curvature > 0 and probe.train_samples is not None:
        values["gradient_noise/criterion"] = trace / (probe.train_samples * curvature)
    else:
        values["gradient_noise/criterion"] = Undefined("no curvature, or the number of samples is unknown")
    return values


def _precise(rows: Tensor) -> Tensor:
    """In float64: in float32 the variance of almost constant gradients would cancel."""
    return (rows if precise(rows.device) == torch.float64 else rows.cpu()).double()


def _signal(mean: Tensor, variance: Tensor) -> float | Undefined:
    moving = variance > 0
    if not bool(moving.any()):
        return Undefined("no gradient varies between the samples")
    guard = torch.finfo(torch.float32).eps * variance[moving].median()
    return float((mean.square() / (variance + guard))[moving].mean())


def summed_gradients(probe: Probe) -> Sums:
    """The sums over all samples of the probe."""
    weights = trained(probe)
    numbers = 2 * sum(value.numel() for value in weights.values())
    require_room_for(weights, numbers, max(probe.sizes), sums=6)
    gradient, square = ({name: torch.zeros_like(_precise(at)) for name, at in weights.items()} for _ in range(2))
    sums = Sums(gradient, square)
    generator = torch.Generator().manual_seed(probe.seed)

    def pull_back(alone: Any, label: Tensor, signs: Tensor) -> tuple[Parameters, Parameters]:
        """J^T (p - y) and J^T B u of one sample."""
        logits, pull, *_ = vjp(lambda current: probe.logits_on(alone, 1, current)[0], weights)
        probabilities = logits.softmax(0)
        root = probabilities.sqrt()
        (gradient,) = pull(probabilities - label)
        (curvature,) = pull(root * signs - probabilities * (root * signs).sum())
        return gradient, curvature

    for batch in probe.batches:
        examples = len(batch.targets)
        with torch.no_grad():
            logits = probe.logits_on(batch.content, examples)
        signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits) * 2 - 1
        labels = one_hot(batch.targets.to(logits.device), logits.shape[1]).to(logits)
        for gradients, curvatures in per_sample(pull_back, batch.content, examples, numbers, (labels, signs)):
            sums.add(gradients, curvatures)
    return sums
