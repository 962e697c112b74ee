"""Products of the logits' Jacobian and its transpose with vectors, by three methods that hold graphs differently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_gengap.derivatives.linearization import linearize

Weights = tuple[Tensor, ...]
LogitsAt = Callable[[Weights], Tensor]


class Jacobian(NamedTuple):
    """One chunk's derivative of the logits with respect to the weights, as two linear maps."""

    transposed: Callable[[Tensor], Weights]
    applied: Callable[[Weights], Tensor]


def linearized(logits_at: LogitsAt, weights: Weights) -> Jacobian:
    """J from a forward-mode linearisation, J^T from a graph; both are kept between products."""
    applied = linearize(lambda *parts: logits_at(parts), *weights)
    leaves = leaves_of(weights)
    logits = logits_at(leaves)

    def transposed(cotangent: Tensor) -> Weights:
        return gradients(logits, leaves, cotangent, retain_graph=True)

    return Jacobian(transposed, lambda direction: applied(*direction))


def double_backward(logits_at: LogitsAt, weights: Weights) -> Jacobian:
    """J as the transpose of J^T, for operations without a forward mode: J^T w is linear in w, with the derivative J.

    The graph is kept between products.
    """
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
    """The same with nothing kept between products: it takes the least memory and the most time."""
    return Jacobian(
        lambda vector: gradients(logits_at(leaves := leaves_of(weights)), leaves, vector),
        lambda direction: double_backward(logits_at, weights).applied(direction),
    )


LINEARISATION, DOUBLE_BACKWARD, REBUILT = "linearisation", "double backward", "graphs rebuilt for every product"
# How graphs are held. The logged `curvature/rung` is the place of the method in this order, from 1.
METHODS: dict[str, Callable[[LogitsAt, Weights], Jacobian]] = {
    LINEARISATION: linearized,
    DOUBLE_BACKWARD: double_backward,
    REBUILT: rebuilt,
}


def leaves_of(weights: Weights) -> Weights:
    """The weights as leaves of a graph of their own. They share memory with the model and are never written."""
    return tuple(weight.detach().requires_grad_() for weight in weights)


def gradients(outputs: Any, inputs: Weights, along: Any, retain_graph: bool = False) -> Weights:
    """The transposed derivative of `outputs` times `along`, by input; zero for inputs without influence."""
    found = torch.autograd.grad(outputs, inputs, along, retain_graph=retain_graph, allow_unused=True)
    return tuple(torch.zeros_like(at) if part is None else part for part, at in zip(found, inputs, strict=True))


def check_transposed(chunks: Sequence[Jacobian], weights: Weights, logits: Tensor, sizes: Sequence[int]) -> None:
    """Refuse maps where <w, J v> is not <J^T w, v>: a derivative is wrong, or eval mode left dropout on.

    The second call is checked: a trace that writes into what it keeps is right at the first call alone. Of the logits
    only type, device and classes count.
    """
    generator = torch.Generator().manual_seed(0)
    direction = tuple(torch.randn(weight.shape, generator=generator).to(weight) for weight in weights)
    for chunk, size in zip(chunks, sizes, strict=True):
        cotangent = torch.randn((size, logits.shape[1]), generator=generator).to(logits)
        chunk.applied(direction)
        applied, pulled = chunk.applied(direction).detach().cpu().double(), chunk.transposed(cotangent)
        along = cotangent.cpu().double()  # not every device has float64
        there = float((along * applied).sum())
        back = sum(float(torch.dot(a.detach().flatten(), b.flatten())) for a, b in zip(pulled, direction, strict=True))
        bound = float(along.norm() * applied.norm())
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
