"""The Gauss-Newton curvature of the mean cross-entropy, as products in the space of (sample, class) vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_gengap.derivatives.fallback import LADDER, Fallback, Step, unsupported_where_it_fails
from lightning_gengap.derivatives.jacobian import (
    METHODS,
    Jacobian,
    Weights,
    check_transposed,
    differentiable_attention,
    gradients,
    leaves_of,
)
from lightning_gengap.derivatives.weights import logits_at, trained
from lightning_gengap.errors import Undefined, one_line, out_of_memory
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.subsample import subsample
from lightning_gengap.samples.nested import rows_of

Result = TypeVar("Result")

SAMPLES = 512  # the soft rank grows with them: only values from equally many compare


@dataclass(frozen=True)
class Curvature:
    """K = B^T J J^T B / n, whose non-zero eigenvalues are those of the Gauss-Newton matrix J^T Lambda J / n.

    J is the Jacobian of the logits. Per sample, Lambda = diag(p) - p p^T = B B^T with B = diag(sqrt p) - p sqrt(p)^T.
    Vectors are flat, float64, on the CPU, of length samples x classes. J is applied in the model's own precision. With
    a metric D on the weights, K = B^T J D^-1 J^T B / n, and its eigenvalues are those of D^-1/2 G D^-1/2.

    Attributes:
        probabilities: p, shape (samples, classes), float64.
        targets: class indices, shape (samples,).
        chunks, sizes: the Jacobian, chunk by chunk, and the samples in each.
        parameters: the number of weights that are differentiated.
        method: one of `jacobian.METHODS`.
        device, dtype: where and how J is applied.
        metric: the diagonal of D by parameter, 0-d where it is constant; None for the identity.
    """

    probabilities: Tensor
    targets: Tensor
    chunks: tuple[Jacobian, ...]
    sizes: tuple[int, ...]
    parameters: int
    method: str
    device: torch.device
    dtype: torch.dtype
    metric: Weights | None = None

    def within(self, metric: Weights | None) -> Curvature:
        """The same curvature in another metric."""
        return replace(self, metric=metric)

    @property
    def residuals(self) -> Tensor:
        """The difference of probabilities and one-hot targets, e = p - y; shape (samples, classes)."""
        return self.probabilities - one_hot(self.targets, self.probabilities.shape[1])

    def factor(self, vectors: Tensor) -> Tensor:
        """B applied sample by sample; shape (samples, classes)."""
        roots = self.probabilities.sqrt()
        return roots * vectors - self.probabilities * (roots * vectors).sum(dim=1, keepdim=True)

    def factor_transposed(self, vectors: Tensor) -> Tensor:
        """B^T applied sample by sample; shape (samples, classes)."""
        return self.probabilities.sqrt() * (vectors - (self.probabilities * vectors).sum(dim=1, keepdim=True))

    def product(self, vector: Tensor) -> Tensor:
        """K times a vector; per chunk one product with J^T and one with J.

        Raises:
            ArithmeticError: it is not finite.
        """
        shape = self.probabilities.shape
        logits = self.factor(vector.reshape(shape))
        scale = float(logits.abs().max())
        if scale == 0:
            return torch.zeros_like(vector)
        pieces = (logits / scale).to(self.dtype).to(self.device).split(self.sizes)  # scaled: float32 underflows
        with differentiable_attention():
            direction = [part.clone() for part in self.chunks[0].transposed(pieces[0])]
            for chunk, piece in zip(self.chunks[1:], pieces[1:], strict=True):
                for total, part in zip(direction, chunk.transposed(piece), strict=True):
                    total += part
            if self.metric is not None:
                for part, by in zip(direction, self.metric, strict=True):
                    part /= by
            moved = torch.cat([chunk.applied(tuple(direction)).detach().cpu().double() for chunk in self.chunks])
        if not bool(moved.isfinite().all()):
            raise ArithmeticError("a product with the curvature is not finite")
        return self.factor_transposed(moved).flatten() * (scale / shape[0])

    def random_signs(self, generator: torch.Generator) -> Tensor:
        """A random start u with E[u u^T] the projection on the complement of K's known null space.

        B sqrt(p) = 0 for every sample, so that random signs go to the other classes - 1 directions only. A Householder
        reflection without its first column is an orthonormal basis of them. Where f(0) = 0, this changes no form
        u^T f(K) u in the mean, but it lowers its variance and leaves no mass at zero for Lanczos to resolve.
        """
        roots = self.probabilities.sqrt()
        signs = torch.randint(0, 2, roots.shape, generator=generator).double() * 2 - 1
        signs[:, 0] = 0
        mirror = roots.clone()
        mirror[:, 0] += 1  # reflects the first axis to -sqrt(p); the sum cannot cancel, for sqrt(p) >= 0
        return (signs - mirror * (mirror * signs).sum(dim=1, keepdim=True) / mirror[:, :1]).flatten()

    def signed_residuals(self, generator: torch.Generator) -> Tensor:
        """A random start a with B a = +-e, one sign per sample: the mean of a^T f(K) a is the sum of the samples' own.

        a = e / sqrt(p). Its square (1 - p_y) / p_y is huge for confident mistakes, hence float64.
        """
        signs = torch.randint(0, 2, (len(self.targets), 1), generator=generator).double() * 2 - 1
        return (signs * self.residuals / self.probabilities.sqrt()).flatten()


def dual_curvature(probe: Probe, most: int = SAMPLES, step: Step = LADDER[0]) -> Curvature:
    """The curvature by the parameters that require gradients, on at most `most` samples drawn by the probe's seed.

    Raises:
        Undefined: no parameter requires a gradient, or the forward fails.
        UnsupportedError: the model cannot be differentiated at this step.
        RuntimeError, MemoryError: out of memory.
    """
    named = trained(probe)
    names, weights = list(named), tuple(named.values())
    contents, targets, sizes = subsample(probe, most, step.chunk)
    maps = [partial(logits_at, probe, names, content, size) for content, size in zip(contents, sizes, strict=True)]
    try:
        with torch.no_grad(), differentiable_attention():
            logits = torch.cat([logits_of(weights) for logits_of in maps])
    except Exception as error:
        if out_of_memory(error):
            raise
        raise Undefined(one_line(error)) from error
    with unsupported_where_it_fails(step.method), differentiable_attention():
        chunks = tuple(METHODS[step.method](logits_of, weights) for logits_of in maps)
        check_transposed(chunks, weights, logits, sizes)
    return Curvature(
        # Float64 softmax of what the network gave; the floor keeps sqrt(p) invertible and changes nothing else.
        logits.cpu().double().softmax(dim=1).clamp(min=1e-60),
        targets,
        chunks,
        sizes,
        sum(weight.numel() for weight in weights),
        step.method,
        logits.device,
        logits.dtype,
    )


def sampled(probe: Probe) -> Fallback[Curvature]:
    """The curvature on at most `SAMPLES` of the probe's samples, drawn by its seed."""
    return _on(probe, min(SAMPLES, len(probe.targets)))


def whole(probe: Probe) -> Fallback[Curvature]:
    """The curvature on all of the probe's samples."""
    return _on(probe, len(probe.targets))


def _on(probe: Probe, samples: int) -> Fallback[Curvature]:
    return Fallback(lambda at, step: dual_curvature(at, samples, step), "curvature/*", samples)


def with_curvature(
    probe: Probe,
    work: Callable[[Curvature], Result],
    samples: Callable[[Probe], Fallback[Curvature]] = sampled,
) -> Result:
    """What `work` makes of the curvature, which is kept for other measures. Out of memory, it starts again with less.

    Raises:
        Undefined: there is no curvature, its products are not finite, or not even one sample at a time fits.
    """
    try:
        return probe.cached(samples).use(probe, work)
    except ArithmeticError as error:
        raise Undefined(one_line(error)) from error


def jacobian_of(probe: Probe, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The explicit Jacobian of at most `most` samples, with their logits and class indices, on the CPU.

    Its shape is (samples x classes, parameters). Samples are differentiated one at a time: a backward over a whole
    chunk for each row would cost as many times more. Rows are written in place, so that the matrix is held once.
    """
    named = trained(probe)
    names, weights = list(named), tuple(named.values())
    contents, targets, sizes = subsample(probe, most)
    jacobian, row = torch.empty(0), 0
    logits: list[Tensor] = []
    for content, size in zip(contents, sizes, strict=True):
        for sample in range(size):
            alone = rows_of(content, torch.tensor([sample]), size)
            leaves = leaves_of(weights)
            output = logits_at(probe, names, alone, 1, leaves)
            logits.append(output.detach().cpu().double())
            if not row:
                count = sum(weight.numel() for weight in weights)
                jacobian = torch.empty(len(targets) * output.shape[1], count, dtype=output.dtype)
            for cotangent in torch.eye(output.shape[1], dtype=output.dtype, device=output.device)[:, None]:
                parts = gradients(output, leaves, cotangent, retain_graph=True)
                jacobian[row] = torch.cat([part.flatten() for part in parts])
                row += 1
    return jacobian, torch.cat(logits), targets
