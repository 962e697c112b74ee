"""Products of the logits' Jacobian and its transpose with vectors, by the fastest way that a model allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_gengap.derivatives.linearization import linearize
from lightning_gengap.errors import one_line, out_of_memory

Weights = tuple[Tensor, ...]
LogitsAt = Callable[[Weights], Tensor]


class Jacobian(NamedTuple):
    """One chunk's derivative of the logits with respect to the weights, as two linear maps."""

    transposed: Callable[[Tensor], Weights]
    applied: Callable[[Weights], Tensor]


def choose_method(
    maps: Sequence[LogitsAt],
    weights: Weights,
    logits: Tensor,
    sizes: Sequence[int],
    notes: list[str],
    first_rung: int = 1,
) -> tuple[tuple[Jacobian, ...], int] | None:
    """The Jacobian by the first rung that works and whose two maps are each other's transpose, and that rung's number.

    The ladder: forward-mode linearisation with a kept graph; a kept double-backward graph where an operation has no
    forward mode; graphs rebuilt for every product where memory does not suffice. What fails is noted.

    Args:
        maps: from weights to logits, chunk by chunk.
        weights: where to differentiate.
        logits: the logits there, of all chunks.
        sizes: samples in each chunk.
        notes: takes what failed.
        first_rung: those before it are not tried.

    Raises:
        RuntimeError, MemoryError: the last rung ran out of memory.
    """
    failures = []
    for rung, (name, build) in enumerate(RUNGS.items(), start=1):
        if rung < first_rung:
            continue
        chunks: tuple[Jacobian, ...] = ()  # frees the graphs of the rung before
        try:
            with differentiable_attention():
                chunks = tuple(build(logits_at, weights) for logits_at in maps)
                _check_transposed(chunks, weights, logits, sizes)
        except Exception as error:
            if rung == len(RUNGS) and out_of_memory(error):
                raise
            failures.append(f"{name}: {one_line(error)}")
            continue
        if failures:
            notes.append(f"curvature/* takes longer by {name}, a faster way is absent: {'; '.join(failures)}")
        return chunks, rung
    notes.append(f"curvature/* is absent: the model cannot be differentiated twice ({'; '.join(failures)})")
    return None


def linearized(logits_at: LogitsAt, weights: Weights) -> Jacobian:
    """J from one kept forward-mode linearisation, J^T from one kept graph."""
    applied = linearize(lambda *parts: logits_at(parts), *weights)
    leaves = leaves_of(weights)
    logits = logits_at(leaves)

    def transposed(cotangent: Tensor) -> Weights:
        return gradients(logits, leaves, cotangent, retain_graph=True)

    return Jacobian(transposed, lambda direction: applied(*direction))


def double_backward(logits_at: LogitsAt, weights: Weights) -> Jacobian:
    """J as the transpose of J^T, whose graph is kept: J^T w is linear in w, so its derivative along it is J."""
    leaves = leaves_of(weights)
    logits = logits_at(leaves)
    cotangent = torch.zeros_like(logits, requires_grad=True)
    pulled = torch.autograd.grad(logits, leaves, cotangent, create_graph=True, allow_unused=True)
    used = [position for position, part in enumerate(pulled) if part is not None and part.requires_grad]

    def transposed(vector: Tensor) -> Weights:
        return gradients(logits, leaves, vector, retain_graph=True)

    def applied(direction: Weights) -> Tensor:
        parts, along = [pulled[i] for i in used], [direction[i] for i in used]
        return gradients(parts, (cotangent,), along, retain_graph=True)[0]

    return Jacobian(transposed, applied)


def rebuilt(logits_at: LogitsAt, weights: Weights) -> Jacobian:
    """The same with nothing kept between products."""
    return Jacobian(
        lambda vector: gradients(logits_at(leaves := leaves_of(weights)), leaves, vector),
        lambda direction: double_backward(logits_at, weights).applied(direction),
    )


RUNGS: dict[str, Callable[[LogitsAt, Weights], Jacobian]] = {
    "linearisation": linearized,
    "double backward": double_backward,
    "graphs rebuilt for every product": rebuilt,
}


def leaves_of(weights: Weights) -> Weights:
    """The same tensors as leaves of a graph of their own; they share memory with the model and are never written."""
    return tuple(weight.detach().requires_grad_() for weight in weights)


def gradients(outputs: Any, inputs: Weights, along: Any, retain_graph: bool = False) -> Weights:
    """Products with a transposed derivative; zero for inputs that have no influence."""
    found = torch.autograd.grad(outputs, inputs, along, retain_graph=retain_graph, allow_unused=True)
    return tuple(torch.zeros_like(at) if part is None else part for part, at in zip(found, inputs, strict=True))


def _check_transposed(chunks: Sequence[Jacobian], weights: Weights, logits: Tensor, sizes: Sequence[int]) -> None:
    """Refuse maps with <w, J v> different from <J^T w, v>: a wrong derivative, or dropout that eval mode left on.

    At the second call: a trace that writes into what it keeps is right at the first alone.
    """
    generator = torch.Generator().manual_seed(0)
    direction = tuple(torch.randn(weight.shape, generator=generator).to(weight) for weight in weights)
    for chunk, size in zip(chunks, sizes, strict=True):
        cotangent = torch.randn((size, logits.shape[1]), generator=generator).to(logits)
        chunk.applied(direction)
        applied, pulled = chunk.applied(direction).detach().double(), chunk.transposed(cotangent)
        there = float((cotangent.double() * applied).sum())
        back = sum(float(torch.dot(a.detach().flatten(), b.flatten())) for a, b in zip(pulled, direction, strict=True))
        bound = float(cotangent.double().norm() * applied.norm())
        if not abs(there - back) <= 10 * torch.finfo(logits.dtype).eps ** 0.5 * bound:
            raise ArithmeticError(f"the products with J and its transpose disagree ({there:.6g} and {back:.6g})")


@contextmanager
def differentiable_attention() -> Iterator[None]:
    """Attention by its formula: the fused kernels have no forward mode and no second derivative."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
