"""The Gauss-Newton curvature of the mean cross-entropy, as products in the space of (sample, class) vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_gengap.derivatives.jacobian import (
    Jacobian,
    Weights,
    choose_method,
    differentiable_attention,
    gradients,
    leaves_of,
)
from lightning_gengap.derivatives.memory import kept_by
from lightning_gengap.errors import one_line, out_of_memory
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.subsample import CHUNK, subsample
from lightning_gengap.samples.nested import rows_of

SAMPLES = 512  # the soft rank grows with them: only values from equally many compare


@dataclass(frozen=True)
class Curvature:
    """K = B^T J J^T B / n, whose non-zero eigenvalues are those of the Gauss-Newton matrix J^T Lambda J / n.

    J is the Jacobian of the logits; Lambda = diag(p) - p p^T = B B^T per sample, B = diag(sqrt p) - p sqrt(p)^T.
    Vectors are flat, float64, on the CPU, of length samples x classes; J is applied in the model's own precision. With
    a metric D on the weights, K = B^T J D^-1 J^T B / n, and its eigenvalues are those of D^-1/2 G D^-1/2.

    Attributes:
        probabilities: p, shape (samples, classes), float64.
        targets: class indices, shape (samples,).
        chunks: the Jacobian, chunk by chunk; sizes: samples in each.
        parameters: the number of weights that are differentiated.
        rung: how: 1 kept linearisation, 2 kept double-backward graph, 3 graphs rebuilt for every product.
        metric: the diagonal of D, positive, parameter by parameter, 0-d where it is constant; None for the identity.
    """

    probabilities: Tensor
    targets: Tensor
    chunks: tuple[Jacobian, ...]
    sizes: tuple[int, ...]
    parameters: int
    rung: int
    device: torch.device
    dtype: torch.dtype
    metric: Weights | None = None

    def within(self, metric: Weights | None) -> Curvature:
        """The same matrix in another metric."""
        return replace(self, metric=metric)

    @property
    def residuals(self) -> Tensor:
        """What the probabilities miss the targets by, e = p - y; shape (samples, classes)."""
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

        B sqrt(p) = 0 for every sample, so random signs go to the other classes - 1 directions only, an orthonormal
        basis of which is a Householder reflection without its first column. This changes no form u^T f(K) u in the
        mean where f(0) = 0, but lowers its variance, and there is no mass at zero for Lanczos to resolve.
        """
        roots = self.probabilities.sqrt()
        signs = torch.randint(0, 2, roots.shape, generator=generator).double() * 2 - 1
        signs[:, 0] = 0
        mirror = roots.clone()
        mirror[:, 0] += 1  # reflects the first axis to -sqrt(p); the sum cannot cancel, for sqrt(p) >= 0
        return (signs - mirror * (mirror * signs).sum(dim=1, keepdim=True) / mirror[:, :1]).flatten()

    def signed_residuals(self, generator: torch.Generator) -> Tensor:
        """A random start a with B a = +-e, one sign per sample: the mean of a^T f(K) a sums over the samples' own.

        a = e / sqrt(p), whose square (1 - p_y) / p_y is huge for confident mistakes; hence float64.
        """
        signs = torch.randint(0, 2, (len(self.targets), 1), generator=generator).double() * 2 - 1
        return (signs * self.residuals / self.probabilities.sqrt()).flatten()


def dual_curvature(probe: Probe, most: int = SAMPLES, chunk: int = CHUNK, first_rung: int = 1) -> Curvature | None:
    """The curvature at the probe's weights, on at most `most` of its samples drawn by its seed.

    With respect to the parameters that require gradients, shared ones once; frozen ones and buffers as they are. None,
    with a note, where nothing can be differentiated twice.

    Args:
        probe: the model and its samples.
        most: the largest number of samples.
        chunk: samples that are differentiated at once; fewer take less memory and more time.
        first_rung: see `choose_method`.

    Raises:
        RuntimeError, MemoryError: out of memory.
    """
    names, weights = trained(probe)
    if not names:
        probe.notes.append("curvature/* is absent: no parameter requires a gradient")
        return None
    contents, targets, sizes = subsample(probe, most, chunk)
    maps = [partial(_logits_at, probe, names, content, size) for content, size in zip(contents, sizes, strict=True)]
    try:
        with torch.no_grad(), differentiable_attention():
            logits = torch.cat([logits_at(weights) for logits_at in maps])
    except Exception as error:
        if out_of_memory(error):
            raise
        probe.notes.append(f"curvature/* is absent: {one_line(error)}")
        return None
    # Float64 softmax of what the network gave; the floor keeps sqrt(p) invertible and changes nothing else.
    probabilities = logits.cpu().double().softmax(dim=1).clamp(min=1e-60)
    climbed = choose_method(maps, weights, logits, sizes, probe.notes, first_rung)
    if climbed is None:
        return None
    chunks, rung = climbed
    count = sum(weight.numel() for weight in weights)
    return Curvature(probabilities, targets, chunks, sizes, count, rung, logits.device, logits.dtype)


def trained(probe: Probe) -> tuple[list[str], Weights]:
    """Names and values of the parameters that require gradients, shared ones once.

    Raises:
        NotImplementedError: one is complex: products with its conjugates are nowhere accounted for.
    """
    found = {name: value.detach() for name, value in probe.model.named_parameters() if value.requires_grad}
    refuse_complex(found)
    return list(found), tuple(found.values())


def without_gradients(probe: Probe, keys: str) -> bool:
    """Whether no gradient of the logits reaches a trained parameter; a note then says that `keys` are absent.

    So it is where the forward runs under `no_grad` or its output is detached: what is computed from gradients would be
    zero there, and wrong.
    """
    if probe.cached(reached):
        return False
    probe.notes.append(f"{keys} is absent: no gradient of the logits reaches a trained parameter")
    return True


def reached(probe: Probe) -> bool:
    """Whether a gradient of one sample's logits reaches a trained parameter; a forward and a backward of it."""
    names, weights = trained(probe)
    batch, leaves = probe.batches[0], leaves_of(weights)
    if not names:
        return True  # what is amiss is something else, and whoever needs the gradients says what; so below
    try:
        alone = rows_of(batch.content, torch.tensor([0]), len(batch.targets))
        with differentiable_attention():
            logits = _logits_at(probe, names, alone, 1, leaves)
            if not logits.requires_grad:
                return False
            found = torch.autograd.grad(logits.sum(), leaves, allow_unused=True)
    except Exception:
        return True
    return any(part is not None for part in found)


def kept_for_each_sample(probe: Probe) -> int:
    """Bytes that one more sample adds to the graph of the logits; 0 where there is no graph."""
    names, weights = trained(probe)
    batch = probe.batches[0]
    most = min(2, len(batch.targets))

    def logits_of(count: int) -> Tensor:
        content = rows_of(batch.content, torch.arange(count), len(batch.targets))
        return _logits_at(probe, names, content, count, leaves_of(weights))

    try:
        with differentiable_attention():
            kept = [kept_by(partial(logits_of, count)) for count in range(1, most + 1)]
    except Exception:
        return 0  # whoever needs the graph says what is amiss
    return max(kept[-1] - kept[0], 0) if most > 1 else kept[0]


def refuse_complex(parameters: Mapping[str, Tensor]) -> None:
    """Raise NotImplementedError, with its name, for a complex parameter."""
    name = next((name for name, value in parameters.items() if value.is_complex()), None)
    if name is not None:
        raise NotImplementedError(f"the parameter {name!r} is complex")


def jacobian_of(probe: Probe, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The explicit Jacobian of at most `most` samples, with their logits and class indices, on the CPU.

    Shapes (samples x classes, parameters), (samples, classes) in float64, (samples,). One sample at a time: a backward
    over a whole chunk for each row would cost as many times more. Written in place: it is held once.
    """
    names, weights = trained(probe)
    contents, targets, sizes = subsample(probe, most)
    jacobian, row = torch.empty(0), 0
    logits: list[Tensor] = []
    for content, size in zip(contents, sizes, strict=True):
        for sample in range(size):
            alone = rows_of(content, torch.tensor([sample]), size)
            leaves = leaves_of(weights)
            output = _logits_at(probe, names, alone, 1, leaves)
            logits.append(output.detach().cpu().double())
            if not row:
                count = sum(weight.numel() for weight in weights)
                jacobian = torch.empty(len(targets) * output.shape[1], count, dtype=output.dtype)
            for cotangent in torch.eye(output.shape[1], dtype=output.dtype, device=output.device)[:, None]:
                parts = gradients(output, leaves, cotangent, retain_graph=True)
                jacobian[row] = torch.cat([part.flatten() for part in parts])
                row += 1
    return jacobian, torch.cat(logits), targets


def _logits_at(probe: Probe, names: Sequence[str], content: Any, examples: int, weights: Weights) -> Tensor:
    return probe.logits_on(content, examples, dict(zip(names, weights, strict=True)))
