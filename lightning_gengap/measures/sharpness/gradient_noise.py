"""The spread of the per-sample gradients, and the cheapest form of the Takeuchi criterion (Thomas et al. 2020)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning_utilities import apply_to_collection
from torch import Tensor
from torch.func import vjp, vmap
from torch.nn.functional import one_hot

from lightning_gengap.derivatives.weights import refuse_complex, require_gradients
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.nested import exchange

MOST_NUMBERS = 2**26
Parameters = dict[str, Tensor]


@dataclass
class Sums:
    """Running sums over samples, in float64 where the device has it.

    Attributes:
        gradient, square: of the gradients g and their entries' squares, by parameter.
        norms: of |g|^2; curvature: of |J^T B u|^2.
    """

    gradient: Parameters
    square: Parameters
    norms: float = 0.0
    curvature: float = 0.0
    count: int = 0

    def add(self, gradients: Parameters, curvatures: Parameters, examples: int) -> None:
        """Add a chunk; shapes (examples, ...)."""
        for name, rows in gradients.items():
            rows = rows.to(self.gradient[name].dtype)
            self.gradient[name] += rows.sum(dim=0)
            squares = rows.square().sum(dim=0)
            self.square[name] += squares
            self.norms += float(squares.sum())
            self.curvature += float(curvatures[name].to(rows.dtype).square().sum())
        self.count += examples


def gradient_noise(probe: Probe) -> dict[str, float]:
    """Variance and signal of the per-sample gradients g_i of the cross-entropy, over all trainable parameters.

    Keys `gradient_noise/trace`, Tr C = mean |g_i|^2 - |mean g|^2 (squared nats per squared weight);
    `gradient_noise/signal`, mean over parameters of (mean g)^2 / variance (no unit); `gradient_noise/curvature`, the
    trace of the Gauss-Newton matrix, (1/n) sum_i |J_i^T B_i u_i|^2 with B B^T = diag(p) - p p^T and seeded random
    signs u (nats per squared weight), unbiased; `gradient_noise/criterion`, Tr C / (n Tr G), n the number of training
    samples: nats, a stand-in for the gap of the loss that vanishes where the samples are interpolated. All
    non-negative, none invariant; they fall with the training loss, next to which they are to be read. Absent with one
    note: the criterion without n; all where per-sample derivatives fail or no gradient reaches a parameter. Cost: a
    forward and two full backwards per sample, in time 12 to 22 forwards. References: Thomas et al. 2020 (arXiv
    1906.07774), Jiang et al. 2020 (arXiv 1912.02178).
    """
    try:
        require_gradients(probe)
        sums = summed_gradients(probe)
    except (RuntimeError, NotImplementedError) as reason:
        first_line = str(reason).partition("\n")[0]
        probe.notes.append(f"gradient_noise/* is absent: per-sample derivatives fail ({first_line})")
        return {}
    mean = torch.cat([total.flatten() for total in sums.gradient.values()]) / sums.count
    square = torch.cat([total.flatten() for total in sums.square.values()]) / sums.count
    trace, curvature = max(sums.norms / sums.count - float(mean.square().sum()), 0.0), sums.curvature / sums.count
    values = {"gradient_noise/trace": trace, "gradient_noise/curvature": curvature}
    variance = (square - mean.square()).clamp(min=0)
    moving = variance > 0
    if bool(moving.any()):
        guard = torch.finfo(torch.float32).eps * variance[moving].median()
        values["gradient_noise/signal"] = float((mean.square() / (variance + guard))[moving].mean())
    if curvature > 0 and probe.train_samples is not None:
        values["gradient_noise/criterion"] = trace / (probe.train_samples * curvature)
    else:
        probe.notes.append("gradient_noise/criterion is absent: no curvature, or the number of samples is unknown")
    return values


def summed_gradients(probe: Probe) -> Sums:
    """The sums over all samples of the probe, in chunks whose gradients hold at most 2^26 numbers."""
    parameters = {name: value.detach() for name, value in probe.model.named_parameters() if value.requires_grad}
    if not parameters:
        raise RuntimeError("no parameter is trainable")
    refuse_complex(parameters)
    precise = {
        name: torch.float32 if value.device.type == "mps" else torch.float64 for name, value in parameters.items()
    }
    zeros = {name: torch.zeros_like(value, dtype=precise[name]) for name, value in parameters.items()}
    sums = Sums(zeros, {name: value.clone() for name, value in zeros.items()})
    generator = torch.Generator().manual_seed(probe.seed)
    size = max(1, MOST_NUMBERS // max(1, 2 * sum(value.numel() for value in parameters.values())))
    for batch in probe.batches:
        examples = len(batch.targets)
        with torch.no_grad():
            logits = probe.logits_on(batch.content, examples)
        signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits) * 2 - 1
        labels = one_hot(batch.targets.to(logits.device), logits.shape[1]).to(logits)
        pieces, function = _per_sample(probe, batch)
        mapped = vmap(function, in_dims=(None, 0, 0, 0), randomness="error")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # layers without a batching rule
            for rows in chunks(examples, size):
                gradients, curvatures = mapped(parameters, labels[rows], signs[rows], [piece[rows] for piece in pieces])
                sums.add(gradients, curvatures, len(labels[rows]))
    return sums


def _per_sample(probe: Probe, batch: ProbeBatch) -> tuple[list[Tensor], Callable[..., tuple[Parameters, Parameters]]]:
    """The tensors of the batch that hold one row per sample, and the two pull-backs of one sample given its rows."""
    pieces = pieces_of(batch)

    def pulled_back(
        parameters: Parameters, label: Tensor, signs: Tensor, rows: list[Tensor]
    ) -> tuple[Parameters, Parameters]:
        content = one_sample(batch, pieces, rows)

        def logits_at(weights: Parameters) -> Tensor:
            return probe.logits_on(content, 1, weights)[0]

        logits, pull = vjp(logits_at, parameters)[:2]
        probabilities = logits.softmax(0)
        root = probabilities.sqrt()
        (gradient,) = pull(probabilities - label)
        (curvature,) = pull(root * signs - probabilities * (root * signs).sum())
        return gradient, curvature

    return pieces, pulled_back


def pieces_of(batch: ProbeBatch) -> list[Tensor]:
    """The tensors of the batch's content that hold one row per sample."""
    pieces: list[Tensor] = []
    apply_to_collection(batch.content, Tensor, pieces.append)
    return [piece for piece in pieces if piece.ndim > 0 and len(piece) == len(batch.targets)]


def one_sample(batch: ProbeBatch, pieces: list[Tensor], rows: list[Tensor]) -> Any:
    """The content of a batch of one sample, given its row of every piece."""
    content = batch.content
    for piece, row in zip(pieces, rows, strict=True):
        content = exchange(content, piece, row[None])
    return content


def chunks(examples: int, size: int) -> Iterator[slice]:
    """Consecutive rows, `size` at a time."""
    return (slice(start, min(start + size, examples)) for start in range(0, examples, size))
