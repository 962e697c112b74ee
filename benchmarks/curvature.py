"""Accuracy and cost of the soft rank, beside the explicit spectrum, a training step, and curvlinops where installed.

    python benchmarks/curvature.py [--data DIRECTORY] [--quick]

Networks are trained on CIFAR-10 from DIRECTORY, or on the embedded digits without it; the MLP is always trained on
digits. Errors are over random starts, relative to the exact value. "held" counts the starts whose bracket holds their
exact form. The first starts take products with the network in float32. Where a product takes long, the others take them
with the explicit matrix; "apart" is the largest relative difference that this makes to an end of a bracket.

Times are medians of rounds in turn, with their range. The peer is curvlinops' Hutchinson trace of G (G + ridge)^-1 with
conjugate gradients. Its error is that of conjugate gradients in the explicit eigenvectors, in float32. Its time is that
of fewer iterations, scaled to the number that the error needs.
"""

import argparse
import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from explicit import Exact, Explicit
from networks import accuracy, dense, images, lenet, probe_of, resnet_20, trained, training_step
from peer import ITERATIONS, peer_forms, peer_needs, peer_operator, peer_value
from timing import in_turn, machine, seconds, spread
from torch import nn

from lightning_gengap.derivatives.gauss_newton import Curvature, dual_curvature
from lightning_gengap.measures.curvature.lanczos_runs import estimated
from lightning_gengap.network.probe import Probe
from lightning_gengap.undisturbed import undisturbed

SLACK = 2e-4  # float32 products move a form by up to this share
BAR = 0.05


@dataclass(frozen=True)
class Subject:
    """A network, the images and the accuracy it is trained to, and how many of them the probe holds.

    Attributes:
        real: random starts with products of the network, unless the command line says otherwise.
        rounds: in which whole values are timed; part: conjugate gradient iterations of the peer in each.
    """

    build: Callable[[], nn.Module]
    coloured: bool
    images: int
    target: float
    samples: int
    real: int
    rounds: int
    part: int


SUBJECTS = {
    "MLP": Subject(dense, False, 1000, 0.99, 300, real=20, rounds=5, part=60),
    "LeNet": Subject(lenet, True, 2000, 0.85, 200, real=5, rounds=3, part=30),
    "ResNet-20": Subject(resnet_20, True, 256, 0.85, 128, real=1, rounds=1, part=10),
}


@dataclass(frozen=True)
class Estimates:
    """Over random starts: relative errors, products, brackets that held, half-widths, and real against explicit."""

    errors: list[float]
    products: list[int]
    starts: list[int]
    held: int
    widths: list[float]
    apart: float

    @property
    def rms(self) -> float:
        """Root mean square error."""
        return statistics.fmean(error**2 for error in self.errors) ** 0.5


def estimates(curvature: Curvature, exact: Exact, ridge: float, seeds: int, real: int) -> Estimates:
    explicit = Explicit(**vars(curvature), matrix=exact.matrix)
    errors, products, starts, widths, held, apart = [], [], [], [], 0, 0.0
    for seed in range(seeds):
        spectrum = estimated(curvature if seed < real else explicit, ridge, seed)
        bracket = spectrum.soft_rank(ridge)
        generator = torch.Generator().manual_seed(seed)
        form = statistics.fmean(exact.form(curvature.random_signs(generator), ridge) for _ in spectrum.runs)
        held += bracket.lower <= form * (1 + SLACK) and bracket.upper >= form * (1 - SLACK)
        errors.append(bracket.middle / exact.soft_rank(ridge) - 1)
        products.append(sum(map(len, spectrum.runs)))
        starts.append(len(spectrum.runs))
        widths.append(bracket.half_width)
        if seed < min(real, 3):
            other = estimated(explicit, ridge, seed).soft_rank(ridge)
            apart = max(apart, abs(other.lower / bracket.lower - 1), abs(other.upper / bracket.upper - 1))
    return Estimates(errors, products, starts, held, widths, apart)


def with_more(curvature: Curvature, exact: Exact, options: argparse.Namespace) -> dict[int, float]:
    """Root mean square error at the first ridge by the largest number of products."""
    explicit = Explicit(**vars(curvature), matrix=exact.matrix)
    ridge, found = options.ridges[0], {}
    for most in (60, 90, 120, 180):
        values = [estimated(explicit, ridge, seed, most).soft_rank(ridge).middle for seed in range(options.seeds)]
        found[most] = statistics.fmean((value / exact.soft_rank(ridge) - 1) ** 2 for value in values) ** 0.5
    return found


def costs(name: str, probe: Probe, ridge: float, found: Estimates, exact: Exact, options: argparse.Namespace) -> str:
    """Product and whole value in units of a step and of the peer's."""
    model, (batch,) = probe.model, probe.batches
    inputs, labels = batch.content
    training = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(training.parameters(), 0.001, momentum=0.9)
    ggn = peer_operator(model, [(inputs, labels)])
    vector = torch.randn(exact.rows.shape[1], generator=torch.Generator().manual_seed(0))

    curvature = dual_curvature(probe)
    start = curvature.random_signs(torch.Generator().manual_seed(0))
    works: list[Callable[[], object]] = [
        lambda: training_step(training, optimizer, inputs, labels),
        lambda: curvature.product(start),
        *([lambda: ggn @ vector] if ggn is not None else []),
    ]
    times = in_turn(works, options.rounds)
    compared = [[own / step for step, own, *_ in times]]
    if ggn is not None:
        compared += [[other / step for step, _, other in times], [other / own for _, own, other in times]]
    part, fresh = SUBJECTS[name].part, partial(Probe, model=model, batches=probe.batches, layout=probe.layout)
    values = []
    for _ in range(SUBJECTS[name].rounds):
        own = seconds(lambda: estimated(dual_curvature(fresh()), ridge, 0))
        other = seconds(lambda: peer_value(ggn, model, ridge, part)) if ggn is not None else math.nan
        values.append(other / (part + 1) / own)
    cells = [*map(spread, compared), *["-"] * (3 - len(compared))]
    forms = peer_forms(exact.eigenvalues, exact.vectors, exact.rows, ridge, options.peer_vectors)
    for goal in (BAR, found.rms):
        need = peer_needs(forms, exact.soft_rank(ridge), goal)
        if need is None:
            cells += [f"not within {100 * goal:.1f} % in {max(ITERATIONS)} iterations", "-"]
            continue
        iterations, vectors, rms = need
        count = vectors * (iterations + 1)
        cells.append(f"{vectors} x {iterations + 1} for {100 * rms:.1f} %")
        cells.append("not installed" if ggn is None else spread([count * value for value in values], 1))
    return f"| {name} | {ridge:g} | " + " | ".join(cells) + " |"


def measured(name: str, options: argparse.Namespace) -> None:
    subject = SUBJECTS[name]
    real = subject.real if options.real is None else options.real
    torch.manual_seed(0)
    coloured = options.data is not None and subject.coloured
    source, side = ("cifar10", None) if coloured else ("digits", 32 if subject.coloured else None)
    inputs, labels = images(source, subject.images, options.data, side)
    model = subject.build()
    epochs = trained(model, inputs, labels, subject.target)
    inputs, labels = inputs[: subject.samples], labels[: subject.samples]
    with undisturbed(model):
        probe = probe_of(model, inputs, labels)
        curvature = dual_curvature(probe)
        print(
            f"\n{name}: {curvature.parameters} parameters, {source}, {epochs} epochs, {len(labels)} samples fitted to "
            f"{accuracy(model, inputs, labels):.3f}, by {curvature.method}",
            flush=True,
        )
        exact = Exact.of(probe, curvature)
        print(
            "| ridge | exact | mean error | rms | worst | products | starts | half-width | held | real | apart |\n"
            + "|---" * 11
            + "|"
        )
        for ridge in options.ridges:
            found = estimates(curvature, exact, ridge, options.seeds, real)
            print(
                f"| {ridge:g} | {exact.soft_rank(ridge):.1f} | {100 * statistics.fmean(found.errors):+.1f} % "
                f"| {100 * found.rms:.1f} % | {100 * max(found.errors, key=abs):+.1f} % | {spread(found.products, 0)} "
                f"| {statistics.median(found.starts):.0f} | {100 * statistics.median(found.widths):.1f} % "
                f"| {found.held}/{options.seeds} | {min(real, options.seeds)} | {found.apart:.0e} |",
                flush=True,
            )
            if ridge == options.ridges[0]:
                first = found
        more = ", ".join(f"{100 * rms:.1f} % with {most}" for most, rms in with_more(curvature, exact, options).items())
        print(f"rms with more products, explicit matrix: {more}")
        if options.no_costs:
            return
        print(
            "| network | ridge | product / step | curvlinops product / step | curvlinops product / ours | curvlinops "
            "products for 5 % | its time / ours | curvlinops products for our rms | its time / ours |"
        )
        print("|---" * 9 + "|")
        print(costs(name, probe, options.ridges[0], first, exact, options), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--quick", action="store_true", help="without ResNet-20, fewer rounds: below two minutes")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9, help="for products")
    parser.add_argument("--real", type=int, help="starts with products of the network; by default 20, 5 and 1")
    parser.add_argument("--peer-vectors", type=int, default=20, help="from which the peer's error is found")
    parser.add_argument("--no-costs", action="store_true", help="errors only")
    parser.add_argument("--networks", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--ridges", type=float, nargs="*", default=[5e-4])
    options = parser.parse_args()
    if options.quick:
        options.networks, options.rounds = ["MLP", "LeNet"], 3
    print(f"{machine()}, {options.seeds} starts, {options.rounds} rounds")
    for name in options.networks:
        measured(name, options)


if __name__ == "__main__":
    main()
