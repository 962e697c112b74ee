"""Products and time until an end of the spectrum is within 1 %, by this package and by its peers."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from exact_curvature import Task, kept
from peer import arpack, peer_hessian, peer_operator, power_iteration
from timing import seconds, spread
from torch import Tensor, nn

from lightning_gengap.derivatives.gauss_newton import dual_curvature
from lightning_gengap.derivatives.gauss_newton import trained as trainable
from lightning_gengap.linalg.lanczos import Product, Tridiagonal, lanczos
from lightning_gengap.measures.curvature.hessian import hessian_product

GOAL = 0.01


def eigenvalues(task: Task, rounds: int) -> None:
    """Products and forwards until an eigenvalue is within the goal, in turn, and the table's rows."""
    import curvlinops

    ggn = peer_operator(task.model, task.parts)
    arguments = (task.model, nn.CrossEntropyLoss(), list(task.model.parameters()), task.parts)
    full = curvlinops.HessianLinearOperator(*arguments, check_deterministic=False)
    made = peer_hessian(task.model, task.parts)
    assert made is not None
    largest, smallest, trace = task.hessian_ends()
    if trace is not None:
        print(
            f"\ntrace of the dense Hessian over that of the Gauss-Newton matrix, less 1: {trace / task.trace - 1:.1e}"
        )
    print("\n| eigenvalue | by | off by % | products | plain forwards | ratio |\n|---|---|---|---|---|---|")

    def ours(matrix: str, exact: float, end: int, seed: int) -> tuple[int, float]:
        probe = task.probe()
        if matrix == "Gauss-Newton":
            curvature = dual_curvature(probe)
            assert curvature is not None
            start = curvature.random_signs(torch.Generator().manual_seed(seed))
            return until(curvature.product, start, exact, end)
        return until(hessian_product(probe, *trainable(probe)), gaussian(seed), exact, end)

    def gaussian(seed: int) -> Tensor:
        return torch.randn(len(task.diagonal), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def theirs(operator: Any, exact: float, end: int, seed: int) -> tuple[int, float]:
        return until(lambda vector: (operator @ vector.float()).double(), gaussian(seed), exact, end)

    for matrix, name, exact, end, operator in (
        ("Gauss-Newton", "top", task.top, -1, ggn),
        ("Hessian", "top", largest, -1, full),
        ("Hessian", "smallest", smallest, 0, full),
    ):
        works: dict[str, Callable[[int], tuple[int, float]]] = {
            "ours, Lanczos": partial(ours, matrix, exact, end),
            "curvlinops' product in the same Lanczos": partial(theirs, operator, exact, end),
            "curvlinops with ARPACK, tolerance 1e-2": partial(arpack, operator, "LA" if end else "SA", GOAL),
        }
        if (matrix, name) == ("Hessian", "top"):
            works["PyHessian, power iteration"] = partial(power_iteration, made, exact, GOAL)
        taken: dict[str, list[tuple[float, int, float]]] = {by: [] for by in works}
        for seed in range(rounds):
            plain = statistics.median(seconds(task.plain) for _ in range(5))
            for by, work in works.items():
                found: list[tuple[int, float]] = []
                spent = seconds(partial(kept, found, work, seed))
                taken[by].append((spent / plain, found[0][0], abs(found[0][1] / exact - 1)))
        for by, rows in taken.items():
            forwards, products, errors = zip(*rows, strict=True)
            ratios = [mine / first[0] for mine, first in zip(forwards, taken["ours, Lanczos"], strict=True)]
            print(
                f"| {matrix}, {name} ({exact:.3g}) | {by} | {100 * max(errors):.1g} | {spread(products, 0)} | "
                f"{spread(forwards, 1)} | {spread(ratios)} |",
                flush=True,
            )


def until(product: Product, start: Tensor, exact: float, end: int) -> tuple[int, float]:
    """Lanczos until its first (0) or last (-1) Ritz value is within the goal of the exact eigenvalue."""

    def ritz(run: Tridiagonal) -> float:
        below = run.coupling[: len(run) - 1]
        return float(torch.linalg.eigvalsh(run.diagonal.diag() + below.diag(1) + below.diag(-1))[end])

    run = lanczos(product, start, 200, lambda run: abs(ritz(run) / exact - 1) < GOAL)
    return len(run), ritz(run)
