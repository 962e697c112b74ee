"""Lanczos and the quadrature rules it yields, for symmetric products. Knows vectors only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
_ROUND_OFF = torch.finfo(torch.float64).eps


class Rule(NamedTuple):
    """A quadrature rule for forms u^T f(K) u: nodes in ascending order, of either sign, and weights."""

    nodes: Tensor
    weights: Tensor

    def value(self, function: Callable[[Tensor], Tensor]) -> float:
        """The rule's value of the form of `function`."""
        return float(self.weights @ function(self.nodes))


@dataclass(frozen=True)
class Tridiagonal:
    """What k Lanczos steps know of a matrix K and the start u: a tridiagonal matrix T, and what couples it to the rest.

    Attributes:
        diagonal: shape (k,), float64; K projected on the Krylov basis.
        coupling: shape (k,), float64; the entries below the diagonal, and last the norm of what the basis leaves
            over, which is zero once the Krylov space is invariant.
        mass: u^T u.
    """

    diagonal: Tensor
    coupling: Tensor
    mass: float

    def __len__(self) -> int:
        return len(self.diagonal)

    @property
    def form(self) -> float:
        """u^T K u, to the precision of the products."""
        return self.mass * float(self.diagonal[0]) if len(self) else 0.0

    def gauss(self) -> Rule:
        """Gauss's rule, with k nodes."""
        return self._rule(self.diagonal)

    def gauss_radau(self) -> Rule:
        """Gauss-Radau's rule, with k + 1 nodes of which one is 0, and perhaps one outside of K's spectrum.

        It is Gauss's where the Krylov space is invariant or Gauss has a node at 0 already.
        """
        nodes, vectors = torch.linalg.eigh(self._matrix(self.diagonal))
        corner = self.coupling[-1].square() * (vectors[-1].square() / nodes).sum()  # makes the extended matrix singular
        if float(self.coupling[-1]) == 0 or not bool(corner.isfinite()):
            return self.gauss()
        rule = self._rule(torch.cat([self.diagonal, corner[None]]))
        rule.nodes[rule.nodes.abs().argmin()] = 0  # but for round-off
        return rule

    def largest(self) -> float:
        """The largest Ritz value: K's largest eigenvalue, from below."""
        return float(torch.linalg.eigvalsh(self._matrix(self.diagonal))[-1]) if len(self) else 0.0

    def largest_at_most(self, weight: float) -> float:
        """A bound from above of every eigenvalue of K whose eigenvector has that weight, or more, in the start.

        The weight is the squared product of the start with the eigenvector. By Bessel's inequality it is at most
        mass / sum_j p_j(x)^2 for an eigenvalue x, with p_0 ... p_k the orthonormal polynomials that T defines; beyond
        the largest Ritz value the sum rises with x. (The bound of Christoffel and Markov; it is sure where the basis
        was kept whole, but for rounding.)
        """
        low = self.largest()
        if not len(self) or float(self.coupling[-1]) == 0:
            return low
        most = self.mass / weight
        diagonal, coupling = self.diagonal.tolist(), self.coupling.tolist()

        def exceeds(x: float) -> bool:
            before, now, total, off = 0.0, 1.0, 1.0, 0.0
            for on, following in zip(diagonal, coupling, strict=True):
                before, now, off = now, ((x - on) * now - off * before) / following, following
                total += now * now
                if total > most:
                    return True
            return False

        step = max(abs(low), max(coupling)) * _ROUND_OFF
        while not exceeds(low + step):
            step *= 2
        high, low = low + step, low + step / 2
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if exceeds(middle) else (middle, high)
        return high

    def _matrix(self, diagonal: Tensor) -> Tensor:
        """T with this diagonal, which may be longer by one."""
        below = self.coupling[: len(diagonal) - 1]
        return diagonal.diag() + below.diag(1) + below.diag(-1)

    def _rule(self, diagonal: Tensor) -> Rule:
        nodes, vectors = torch.linalg.eigh(self._matrix(diagonal))
        return Rule(nodes, self.mass * vectors[0].square())


@dataclass(frozen=True)
class Bracket:
    """A lower and an upper value with the exact one between them, and the best guess of it in the middle."""

    lower: float
    upper: float
    middle: float

    @property
    def half_width(self) -> float:
        """Half the distance of the ends, relative to the middle."""
        return 0.5 * (self.upper - self.lower) / self.middle if self.middle > 0 else float(self.upper > 0)

    def __add__(self, other: Bracket) -> Bracket:
        return Bracket(self.lower + other.lower, self.upper + other.upper, self.middle + other.middle)

    def scaled(self, factor: float) -> Bracket:
        """All three times a positive factor."""
        return Bracket(self.lower * factor, self.upper * factor, self.middle * factor)


def lanczos(
    product: Product,
    start: Tensor,
    most: int,
    enough: Callable[[Tridiagonal], bool] = lambda tridiagonal: False,
    kept: int | None = None,
) -> Tridiagonal:
    """Up to `most` Lanczos steps, one product each, with full re-orthogonalisation in float64.

    Every new vector is orthogonalised against the whole basis twice. Products in float32 would otherwise lose the
    orthogonality that the quadrature rests on. With `kept` it is orthogonalised against the last vectors alone.
    Eigenvalues that are met early then come back as copies, which share the weight that one of them had: the rules
    stay rules and take more steps (Cullum and Willoughby 1985), but no bound is sure.

    Memory: 8 x min(steps, kept) x len(start) bytes.

    Args:
        product: a symmetric matrix times a float64 vector; it may compute in float32.
        start: shape (n,), float64.
        most: the largest number of products.
        enough: called after each step; True stops.
        kept: the number of vectors of the basis that are kept, at least 2; all by default.

    Example:
        >>> eigenvalues = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
        >>> run = lanczos(lambda vector: eigenvalues * vector, torch.ones(3, dtype=torch.float64), most=10)
        >>> round(run.gauss().value(torch.log1p), 6) == round(float(eigenvalues.log1p().sum()), 6)
        True
    """
    size = len(start)
    norm = float(start.norm())
    if norm == 0 or most < 1:
        return Tridiagonal(start.new_zeros(0), start.new_zeros(0), norm**2)
    steps = min(most, size)
    basis = start.new_zeros(min(steps, kept or steps), size)
    diagonal, coupling = start.new_zeros(steps), start.new_zeros(steps)
    vector = start / norm
    found = Tridiagonal(diagonal[:0], coupling[:0], norm**2)
    for step in range(steps):
        basis[step % len(basis)] = vector
        image = product(vector)
        reach = float(image.norm())
        diagonal[step] = vector @ image
        done = basis[: step + 1]
        for _ in range(2):
            image = image - done.T @ (done @ image)
        left_over = float(image.norm())
        # What is left of a vector in the span of the basis is round-off, and its direction is arbitrary.
        invariant = left_over <= 10 * _ROUND_OFF * reach or step + 1 == size
        coupling[step] = 0.0 if invariant else left_over
        found = Tridiagonal(diagonal[: step + 1], coupling[: step + 1], norm**2)
        if invariant or enough(found):
            break
        vector = image / left_over
    return Tridiagonal(found.diagonal.clone(), found.coupling.clone(), found.mass)


def shrinkage(tridiagonal: Tridiagonal, ridge: float) -> Bracket:
    """Bracket of u^T K (K + ridge)^-1 u, for K positive semi-definite.

    Gauss-Radau with a node at 0 is the lower end and Gauss the upper: all even derivatives of x / (x + ridge) are
    negative and all odd ones positive. Both come from the continued fraction of T, not from its eigenvalues. With
    T = [[a, b], [b, S]], the form is mass * c / (c + ridge), c = a - b^2 [(S + ridge)^-1]_11. It keeps its relative
    accuracy when u lies almost in the null space and c is far below round-off of the largest eigenvalue.

    The middle is at the geometric mean of both ends' c: a mean of the ends themselves is far too low once the form is
    close to the mass.
    """
    if not len(tridiagonal):
        return Bracket(0.0, 0.0, 0.0)
    upper = _schur(tridiagonal.diagonal, tridiagonal.coupling, ridge)
    lower = min(_schur(*_with_node_at_zero(tridiagonal), ridge), upper)
    ends = (lower, upper, (lower * upper) ** 0.5)
    return Bracket(*(tridiagonal.mass * c / (c + ridge) for c in ends))


def _schur(diagonal: Tensor, coupling: Tensor, ridge: float) -> float:
    """The Schur complement c = a - b^2 [(S + ridge)^-1]_11."""
    entries, squares = diagonal.tolist(), coupling.square().tolist()
    schur = max(entries[-1], 0.0)
    for entry, square in zip(reversed(entries[:-1]), reversed(squares[: len(entries) - 1]), strict=True):
        schur = max(entry - square / (schur + ridge), 0.0)  # positive but for round-off
    return schur


def _with_node_at_zero(tridiagonal: Tridiagonal) -> tuple[Tensor, Tensor]:
    """T extended by the one row that makes it singular (Golub 1973); T itself where the Krylov space is invariant.

    Float32 noise can push a tiny eigenvalue of T below zero. Then the largest leading part of T that is positive
    definite is extended instead, which gives a weaker bound.
    """
    diagonal, coupling = tridiagonal.diagonal, tridiagonal.coupling
    if float(coupling[-1]) == 0:
        return diagonal, coupling
    pivot, corner, kept = 0.0, 0.0, 0
    for step, entry in enumerate(diagonal.tolist()):
        pivot = entry - (float(coupling[step - 1]) * corner if step else 0.0)
        if pivot <= _ROUND_OFF * entry:
            break
        # The last pivot of T = L D L^T is 1 / [T^-1]_kk, so that this ratio times the coupling makes T singular.
        corner, kept = float(coupling[step]) / pivot, step + 1
    last = diagonal.new_tensor([float(coupling[kept - 1]) * corner if kept else 0.0])
    return torch.cat([diagonal[:kept], last]), coupling
