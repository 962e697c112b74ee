"""The peers: curvlinops and PyHessian.

Curvlinops takes the soft rank as Hutchinson's trace of G (G + ridge)^-1, with conjugate gradients.
"""

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

TRACE_VECTORS, POWER_ITERATIONS = 10, 20
NEVER = -math.inf  # PyHessian's tolerance on the relative change, which is negative where its trace is
ITERATIONS = (15, 30, 60, 90, 120, 180, 240, 360, 540, 720, 1080, 1440, 2160, 2880, 4320)  # of conjugate gradients


def peer_forms(eigenvalues: Tensor, vectors: Tensor, rows: Tensor, ridge: float, count: int) -> dict[int, Tensor]:
    """z^T G x for `count` random signs z, x after so many conjugate gradient iterations on (G + ridge) x = z.

    They run in the basis of G's eigenvectors, in which the whole null space of G is one coordinate, and in float32, as
    those of the peer.

    Args:
        eigenvalues: of rows rows^T, float64.
        vectors: its eigenvectors, in columns.
        rows: with G = rows^T rows, shape (samples x classes, parameters), float32.
        ridge: on the mean loss.
        count: of random starts.
    """
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (rows.shape[1], count), generator=generator).float() * 2 - 1
    kept = eigenvalues > 1e-9 * eigenvalues.max()
    seen = vectors[:, kept].T @ (rows @ signs).double() / eigenvalues[kept, None].sqrt()
    unseen = (len(signs) - seen.square().sum(0)).clamp(min=0).sqrt()
    z = torch.cat([seen, unseen[None]]).float()
    g = torch.cat([eigenvalues[kept], eigenvalues.new_zeros(1)]).float()[:, None]
    x, residual, direction = torch.zeros_like(z), z.clone(), z.clone()
    square, found = residual.square().sum(0), {}
    for iteration in range(1, max(ITERATIONS) + 1):
        image = (g + ridge) * direction
        step = square / (direction * image).sum(0)
        x, residual = x + step * direction, residual - step * image
        square, before = residual.square().sum(0), square
        direction = residual + square / before * direction
        if iteration in ITERATIONS:
            found[iteration] = (z * g * x).double().sum(0)
    return found


def peer_needs(forms: dict[int, Tensor], exact: float, goal: float) -> tuple[int, int, float] | None:
    """Iterations, vectors and root mean square error of the fewest products that reach the goal; None if none do."""
    options = []
    for iterations, found in forms.items():
        errors = found / exact - 1
        bias, variance = float(errors.mean()), float(errors.var())
        if abs(bias) < goal:
            vectors = max(math.ceil(variance / (goal**2 - bias**2)), 1)
            rms = (bias**2 + variance / vectors) ** 0.5
            options.append((vectors * (iterations + 1), iterations, vectors, rms))
    return min(options)[1:] if options else None


def peer_operator(model: nn.Module, parts: list[tuple[Tensor, Tensor]]) -> Any:
    """The Gauss-Newton operator of curvlinops, or None where it is not installed."""
    try:
        import curvlinops  # type: ignore[import-not-found]
    except ImportError:
        return None
    parameters = list(model.parameters())
    return curvlinops.GGNLinearOperator(model, nn.CrossEntropyLoss(), parameters, parts, check_deterministic=False)


def peer_value(ggn: Any, model: nn.Module, ridge: float, iterations: int) -> float:
    """z^T G (G + ridge)^-1 z for random signs z."""
    import curvlinops
    from curvlinops.examples import IdentityLinearOperator  # type: ignore[import-not-found]

    like = next(model.parameters())
    shapes = [parameter.shape for parameter in model.parameters()]
    damped = ggn + ridge * IdentityLinearOperator(shapes, like.device, like.dtype)
    inverse = curvlinops.CGInverseLinearOperator(
        damped, max_iter=iterations, max_tridiag_iter=iterations, tolerance=1e-12, eps=1e-30
    )
    z = (torch.randint(0, 2, (sum(shape.numel() for shape in shapes),)).float() * 2 - 1).to(like.device)
    return float(z @ (ggn @ (inverse @ z)))


def peer_cases(model: nn.Module, parts: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[str, float, Callable[[], Any]]]:
    """What the installed peers compute of the same model and samples: the name, about how many forwards, the work."""
    ggn = peer_operator(model.eval(), parts)
    if ggn is not None:
        import curvlinops

        trace = partial(curvlinops.hutchinson_trace, ggn, num_matvecs=TRACE_VECTORS)
        yield f"curvlinops Gauss-Newton trace or diagonal, {TRACE_VECTORS} vectors", 46, trace
    made = peer_hessian(model, parts)
    if made is not None:
        yield f"PyHessian trace, {TRACE_VECTORS} vectors", 40, lambda: made().trace(TRACE_VECTORS, NEVER)
        rounds = f"PyHessian top eigenvalue, {POWER_ITERATIONS} rounds"
        yield rounds, 200, lambda: made().eigenvalues(POWER_ITERATIONS, NEVER)


def peer_hessian(model: nn.Module, parts: list[tuple[Tensor, Tensor]]) -> Callable[[], Any] | None:
    """A maker of PyHessian's operator on a copy of the model, or None where it is not installed."""
    try:
        from pyhessian import hessian  # type: ignore[import-not-found]
    except ImportError:
        return None
    own = copy.deepcopy(model).eval()
    return lambda: hessian(own, nn.CrossEntropyLoss(), dataloader=parts, cuda=False)
