"""How the cost and error of the soft rank grow with samples, classes and parameters, and what memory it takes.

    python benchmarks/curvature_growth.py [--seeds 10] [--parts samples classes parameters memory]

Random networks are trained for a few steps on faint class means under noise. "rms" is the error over random starts
beside the explicit Jacobian, where that is affordable; "deviation" is that of the starts among themselves. "product" is
in training steps over the same samples: the median and range of five rounds in turn.
"""

import argparse
import copy
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from explicit import curvature_rows
from networks import dense, lenet, probe_of, resnet_18, resnet_20, training_step
from timing import in_turn, machine, spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap.derivatives.gauss_newton import Curvature, dual_curvature
from lightning_gengap.linalg.lanczos import lanczos
from lightning_gengap.measures.curvature.lanczos_runs import MOST_PRODUCTS, estimated
from lightning_gengap.network.probe import Probe
from lightning_gengap.undisturbed import undisturbed

RIDGE = 5e-4
ROUNDS = 5
AFFORDABLE = 4e11  # multiplications for the explicit Gram matrix and its factor
MIB = 2**20


class Case(NamedTuple):
    """A network, its inputs, and how many values of the soft rank are taken."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    samples: int
    classes: int = 10
    seeds: int | None = None
    steps: int = 30


SAMPLES = [Case("MLP", dense, (64,), samples) for samples in (64, 128, 256, 512, 1024)]
CLASSES = [
    Case("MLP 64-32-C", lambda c=classes: dense_to(c), (64,), samples, classes)  # type: ignore[misc]
    for classes, samples in ((10, 64), (100, 64), (1000, 64))
]
PARAMETERS = [
    Case("MLP", dense, (64,), 64),
    Case("LeNet", lenet, (3, 32, 32), 64),
    Case("ResNet-20", resnet_20, (3, 32, 32), 64, seeds=5, steps=5),
    Case("ResNet-18", resnet_18, (3, 32, 32), 16, seeds=1, steps=2),
    Case("MLP, 4900 wide", lambda: dense(10, 4900), (64,), 64, seeds=1, steps=2),
]


def dense_to(classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))


def subject(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = case.build()
    labels = torch.arange(case.samples) % case.classes
    images = torch.randn(case.samples, *case.shape) + 0.5 * torch.randn(case.classes, *case.shape)[labels]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(case.steps):
        training_step(model.train(), optimizer, images, labels)
    return model, images, labels


def exact(probe: Probe, curvature: Curvature) -> float | None:
    """From the explicit Jacobian, on the smaller of its two sides; None where that is not affordable."""
    count, classes = curvature.probabilities.shape
    small, large = sorted((count * classes, curvature.parameters))
    if small**2 * large > AFFORDABLE or small > 6000:
        return None
    rows = curvature_rows(probe, curvature).double()
    gram = rows @ rows.T if len(rows) == small else rows.T @ rows
    eigenvalues = torch.linalg.eigvalsh(gram).clamp(min=0)
    return float((eigenvalues / (eigenvalues + RIDGE)).sum())


def row(case: Case, seeds: int) -> str:
    model, images, labels = subject(case)
    training = copy.deepcopy(model)
    optimizer = torch.optim.SGD(training.parameters(), 1e-3)
    with undisturbed(model):
        probe = probe_of(model, images, labels)
        curvature = dual_curvature(probe, case.samples)
        start = curvature.random_signs(torch.Generator().manual_seed(0))
        step = partial(training_step, training.train(), optimizer, images, labels)
        products = [own / plain for own, plain in in_turn([lambda: curvature.product(start), step], ROUNDS)]
        spectra = [estimated(curvature, RIDGE, seed) for seed in range(seeds if case.seeds is None else case.seeds)]
        reference = exact(probe, curvature) if len(spectra) > 1 else None
    brackets = [spectrum.soft_rank(RIDGE) for spectrum in spectra]
    values = [bracket.middle for bracket in brackets]
    middle = statistics.fmean(values) if values else None
    rms = None if reference is None else statistics.fmean((v / reference - 1) ** 2 for v in values) ** 0.5
    counts = [sum(map(len, spectrum.runs)) for spectrum in spectra]
    cells = [
        case.name,
        f"{curvature.parameters}",
        f"{case.samples}",
        f"{case.classes}",
        "-" if middle is None else f"{middle:.1f}",
        "-" if reference is None else f"{reference:.1f}",
        "-" if rms is None else f"{100 * rms:.1f} %",
        "-" if middle is None or len(values) < 2 else f"{100 * statistics.stdev(values) / middle:.1f} %",
        "-" if not brackets else f"{100 * statistics.median(bracket.half_width for bracket in brackets):.1f} %",
        "-" if not counts else f"{statistics.median(counts):.0f}",
        spread(products),
        f"{8 * MOST_PRODUCTS * case.samples * case.classes / MIB:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def resident(highest: bool = False) -> float:
    """Memory of this process in MiB, or the highest since `forget`; Linux."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM" if highest else "VmRSS"))
    return int(line.split()[1]) / 1024


def highest_above(base: float, work: Callable[[], object]) -> float:
    """The peak of the process while it works, above `base`."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from here on
    work()
    return resident(highest=True) - base


def memory(case: Case) -> str:
    """Peaks above what the process holds with model and images; run in a process of its own."""
    model, images, labels = subject(case)
    for parameter in model.parameters():
        parameter.grad = None
    base = resident()

    def differentiated() -> None:
        cross_entropy(model(images), labels).backward()
        for parameter in model.parameters():
            parameter.grad = None

    with undisturbed(model):
        step = highest_above(base, differentiated)
        probe = probe_of(model, images, labels)
        built: list[Curvature] = []
        set_up = highest_above(base, lambda: built.append(dual_curvature(probe, case.samples)))
        kept = resident() - base
        curvature = built[0]
        start = curvature.random_signs(torch.Generator().manual_seed(0))
        two = highest_above(base, lambda: lanczos(curvature.product, start, 2))
        sixty = highest_above(base, lambda: lanczos(curvature.product, start, MOST_PRODUCTS))
    weights = 4 * curvature.parameters / MIB
    cells = [f"{value:.1f}" for value in (weights, step, set_up, kept, two, sixty)]
    return f"| {case.name} | {curvature.parameters} | {case.samples} | {' | '.join(cells)} |"


MEMORY = [
    Case("MLP", dense, (64,), 1024),
    Case("LeNet", lenet, (3, 32, 32), 1024, steps=2),
    Case("ResNet-18", resnet_18, (3, 32, 32), 16, steps=1),
    Case("MLP, 4900 wide", lambda: dense(10, 4900), (64,), 64, steps=1),
]


def table(part: str, seeds: int) -> Iterator[str]:
    yield f"\ngrowth with {part}"
    if part == "memory":
        yield "| network | parameters | samples | weights | a step | set-up | kept | two products | 60 products |"
        yield "|---" * 9 + "|"
        for number in range(len(MEMORY)):
            command = [sys.executable, __file__, "--memory-of", str(number)]
            # What is freed goes back to the system at once, so that peaks are of what is in use.
            allocator = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
            yield subprocess.run(command, check=True, capture_output=True, text=True, env=allocator).stdout.strip()
        return
    yield (
        "| network | parameters | samples | classes | soft rank | exact | rms | deviation | half-width | products "
        "| product / step | basis (MiB) |"
    )
    yield "|---" * 12 + "|"
    for case in {"samples": SAMPLES, "classes": CLASSES, "parameters": PARAMETERS}[part]:
        yield row(case, seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--parts", nargs="*", default=["samples", "classes", "parameters", "memory"])
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of is not None:
        print(memory(MEMORY[options.memory_of]))
        return
    print(f"{machine()}, ridge {RIDGE:g}")
    for part in options.parts:
        for line in table(part, options.seeds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
