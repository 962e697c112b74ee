"""Curvature by this package and by its peers against the exact value, and their cost at equal error.

    python benchmarks/second_opinion.py [--data DIRECTORY] [--networks MLP LeNet ResNet-20]

Exact values are of the float64 model (ResNet-20: float32, summed in float64, for double convolutions take long): the
Gauss-Newton matrix from the explicit Jacobian, one backward per sample and class; the Hessian dense where it has at
most 5,000 rows, else its ends by ARPACK. Where the network is linear, piece by piece, in each single weight (ReLU, max
pooling, batch norm in eval mode) the Hessian's diagonal is the Gauss-Newton matrix's, which the dense one confirms;
Hutchinson's estimates of either trace are then of the same number.

Estimators run in turn, each round with another seed. With s their relative root mean square deviation from the exact
value and t their cost in plain forwards over the same samples, a mean of s^2 / 0.01^2 runs, at least one, is within 1 %
(root mean square) if nothing is systematic: "forwards to 1 %"; its ratio to the first of a quantity has a bootstrap
interval (90 %, over rounds). Of iterations for an eigenvalue the products and forwards until they are within 1 % are
taken instead, but for ARPACK, which makes 20 products at least.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from eigenvalues import GOAL, eigenvalues
from exact_curvature import Task, kept
from networks import accuracy, dense, images, lenet, resnet_20, trained
from peer import kronecker_soft_rank, peer_hessian, peer_operator, peer_value
from timing import machine, seconds, spread
from torch import Tensor, nn

from lightning_gengap.derivatives.gauss_newton import dual_curvature
from lightning_gengap.derivatives.gauss_newton import trained as trainable
from lightning_gengap.derivatives.weight_decay import ASSUMED_RIDGE
from lightning_gengap.measures import compute
from lightning_gengap.measures.curvature.diagonal_curvature import diagonal_of

VECTORS = 12
Work = Callable[[int], float]


class Subject(NamedTuple):
    """A network, the images and the accuracy it is trained to, the samples measured, rounds, the exact precision."""

    build: Callable[[], nn.Module]
    coloured: bool
    images: int
    target: float
    samples: int
    rounds: int
    precision: torch.dtype = torch.float64


SUBJECTS = {
    "MLP": Subject(dense, False, 1000, 0.95, 256, 40),
    "LeNet": Subject(lenet, True, 1000, 0.85, 128, 10),
    "ResNet-20": Subject(resnet_20, True, 256, 0.85, 32, 6, torch.float32),
}


def traces(task: Task) -> dict[str, Work]:
    """Relative errors of the trace, by seed."""
    import curvlinops

    criterion, parameters = nn.CrossEntropyLoss(), list(task.model.parameters())
    ggn = peer_operator(task.model, task.parts)
    full = curvlinops.HessianLinearOperator(task.model, criterion, parameters, task.parts, check_deterministic=False)
    made = peer_hessian(task.model, task.parts)
    assert made is not None

    def measured(name: str, key: str, seed: int) -> float:
        return compute(task.probe(seed), [name]).values[key] / task.trace - 1

    def start_only(seed: int) -> float:
        curvature = dual_curvature(task.probe(seed))
        assert curvature is not None
        start = curvature.random_signs(torch.Generator().manual_seed(seed))
        return float(start @ curvature.product(start)) / task.trace - 1

    def by_peer(estimator: Callable[..., Tensor], operator: Any, seed: int) -> float:
        torch.manual_seed(seed)
        return float(estimator(operator, num_matvecs=VECTORS)) / task.trace - 1

    def by_pyhessian(seed: int) -> float:
        torch.manual_seed(seed)
        return statistics.fmean(made().trace(maxIter=VECTORS, tol=-1e9)) / task.trace - 1

    return {
        "ours, `gradient_noise/curvature`": partial(measured, "gradient_noise", "gradient_noise/curvature"),
        "ours, `curvature/diagonal/trace` (exact)": partial(measured, "diagonal_curvature", "curvature/diagonal/trace"),
        "ours, `curvature/trace` (the soft rank's first product)": start_only,
        f"curvlinops, Gauss-Newton, Hutchinson, {VECTORS} vectors": partial(by_peer, curvlinops.hutchinson_trace, ggn),
        f"curvlinops, Gauss-Newton, Hutch++, {VECTORS} vectors": partial(by_peer, curvlinops.hutchpp_trace, ggn),
        f"curvlinops, Gauss-Newton, XTrace, {VECTORS} vectors": partial(by_peer, curvlinops.xtrace, ggn),
        f"curvlinops, Hessian, Hutchinson, {VECTORS} vectors": partial(by_peer, curvlinops.hutchinson_trace, full),
        f"PyHessian, Hessian, Hutchinson, {VECTORS} vectors": by_pyhessian,
    }


def diagonals(task: Task) -> dict[str, Work]:
    """Relative Euclidean errors of the Gauss-Newton diagonal, by seed."""
    import curvlinops

    ggn = peer_operator(task.model, task.parts)

    def error(found: Tensor) -> float:
        return float((found.double() - task.diagonal).norm() / task.diagonal.norm())

    def exact(seed: int) -> float:
        probe = task.probe(seed)
        found = diagonal_of(probe, trainable(probe)[0], "diagonal")
        assert found is not None
        return error(torch.cat([part.flatten() for part in found.curvature.values()]))

    def by_peer(estimator: Callable[..., Tensor], seed: int) -> float:
        torch.manual_seed(seed)
        return error(estimator(ggn, num_matvecs=VECTORS))

    return {
        "ours, `diagonal_curvature` (exact, and its noise)": exact,
        f"curvlinops, Hutchinson, {VECTORS} vectors": partial(by_peer, curvlinops.hutchinson_diag),
        f"curvlinops, XDiag, {VECTORS} vectors": partial(by_peer, curvlinops.xdiag),
    }


def estimated(task: Task, quantity: str, works: dict[str, Work], rounds: int) -> None:
    """Rounds of all works in turn, and the table's rows."""
    errors: dict[str, list[float]] = {name: [] for name in works}
    costs: dict[str, list[float]] = {name: [] for name in works}
    for seed in range(-1, rounds):
        plain = statistics.median(seconds(task.plain) for _ in range(5))
        for name, work in works.items():
            found: list[float] = []
            spent = seconds(partial(kept, found, work, max(seed, 0)))
            if seed >= 0:  # the first round warms up
                errors[name].append(found[0])
                costs[name].append(spent / plain)

    def to_goal(name: str, chosen: Any) -> float:
        square = float(np.mean(np.square(np.array(errors[name])[chosen])))
        return float(np.median(np.array(costs[name])[chosen])) * max(square / GOAL**2, 1.0)

    generator = np.random.default_rng(0)
    draws = [generator.integers(rounds, size=rounds) for _ in range(1000)]
    first = next(iter(works))
    for name in works:
        mean, deviation = np.mean(errors[name]), np.std(errors[name], ddof=1)
        rms = np.sqrt(np.mean(np.square(errors[name])))
        ratios = [to_goal(name, chosen) / to_goal(first, chosen) for chosen in draws]
        ratio = to_goal(name, slice(None)) / to_goal(first, slice(None))
        low, high = np.quantile(ratios, [0.05, 0.95])
        print(
            f"| {quantity} | {name} | {100 * mean:+.2g} ± {100 * deviation / rounds**0.5:.1g} | {100 * rms:.2g} | "
            f"{spread(costs[name], 1)} | {to_goal(name, slice(None)):.3g} | {ratio:.2g} [{low:.2g}, {high:.2g}] |",
            flush=True,
        )


def kronecker(task: Task) -> dict[str, Work]:
    """Relative deviations of the Kronecker-factored soft rank from curvlinops', in place of an exact value."""
    theirs = kronecker_soft_rank(task.reference, [(x.double(), y) for x, y in task.parts], ASSUMED_RIDGE)

    def ours(seed: int) -> float:
        found = compute(task.probe(seed), ["kronecker_curvature"]).values
        return found["curvature/kronecker/soft_rank"] / theirs - 1

    return {
        "ours, `curvature/kronecker/soft_rank`": ours,
        "curvlinops, KFAC of type 2": lambda seed: (
            kronecker_soft_rank(task.model, task.parts, ASSUMED_RIDGE) / theirs - 1
        ),
    }


def soft_ranks(task: Task) -> dict[str, Work]:
    """Relative errors of the soft rank, by seed."""
    ggn = peer_operator(task.model, task.parts)

    def ours(seed: int) -> float:
        return compute(task.probe(seed), ["soft_rank"]).values["curvature/soft_rank"] / task.soft_rank - 1

    def theirs(seed: int) -> float:
        torch.manual_seed(seed)
        return peer_value(ggn, task.model, ASSUMED_RIDGE, 60) / task.soft_rank - 1

    return {"ours, `curvature/soft_rank`": ours, "curvlinops, 1 vector, 60 conjugate gradients": theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--networks", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--share", type=int, default=1, help="divides the rounds")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of peers
    print(machine())
    for name in options.networks:
        subject = SUBJECTS[name]
        torch.manual_seed(0)
        source = "cifar10" if subject.coloured and options.data else "digits"
        inputs, labels = images(source, subject.images, options.data, 32 if subject.coloured else None)
        model, rounds = subject.build(), max(subject.rounds // options.share, 3)
        trained(model, inputs, labels, subject.target)
        task = Task(model, inputs[: subject.samples], labels[: subject.samples], subject.precision)
        print(
            f"\n{name}, {len(task.diagonal)} parameters, {source}, fitted to {accuracy(model, inputs, labels):.2f}, "
            f"{subject.samples} samples, {rounds} rounds; trace {task.trace:.4g}, top {task.top:.4g}, soft rank at "
            f"{ASSUMED_RIDGE:g} {task.soft_rank:.4g}\n"
        )
        print("| quantity | by | mean off by % | rms % | plain forwards | forwards to 1 % | ratio |")
        print("|---|---|---|---|---|---|---|")
        estimated(task, "trace", traces(task), rounds)
        estimated(task, "diagonal", diagonals(task), rounds)
        if name != "ResNet-20":  # curvlinops refuses batch norm here
            estimated(task, "KFAC soft rank", kronecker(task), max(rounds // 4, 3))
        estimated(task, "soft rank", soft_ranks(task), max(rounds // 4, 3))
        eigenvalues(task, max(rounds // 4, 3))


if __name__ == "__main__":
    main()
