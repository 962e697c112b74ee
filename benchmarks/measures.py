"""Cost of every measure, in training steps and in plain forwards over the same samples, beside peers where installed.

    python benchmarks/measures.py [--networks ResNet-20] [--rounds 3] [--share 4] [--most-forwards 31]

Each round times, in turn, a plain no-grad forward and a training step over every number of samples that occurs, and
then each measure; the table gives median ratios and their range over rounds. A measure that declares so many forwards
that it would exceed the network's limit of forwards x samples is taken on fewer samples, which its row says, and the
step and the forward it is compared with as well. Each is taken alone: what several share is paid once where they are
taken together, as the row "default measures together" shows. The network is trained on class means under noise
until 0.9 of the images are classified correctly, so that no measure ends early for want of accuracy.
"""

import argparse
import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from networks import accuracy, resnet_18, resnet_20, trained
from timing import machine, seconds, spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap.batches import ProbeBatch, default_forward
from lightning_gengap.layers import Layout
from lightning_gengap.measures import MEASURES, ON_REQUEST, compute
from lightning_gengap.probe import Probe, State, copy_state
from lightning_gengap.undisturbed import undisturbed

CHUNK = 128
TRACE_VECTORS, POWER_ITERATIONS = 10, 20


class Subject(NamedTuple):
    """A network, the most samples it is measured on, and the limit of forwards x samples for one measure."""

    build: Callable[[], nn.Module]
    samples: int
    limit: int


class Case(NamedTuple):
    """What is timed, and over how many samples."""

    name: str
    samples: int
    work: Callable[[], object]


SUBJECTS = {"ResNet-20": Subject(resnet_20, 1024, 16384), "ResNet-18": Subject(resnet_18, 1024, 16384)}
FEWEST = 32


def affordable(forwards: float, subject: Subject) -> int:
    """The largest power of two within the subject's limits, at least FEWEST."""
    samples = subject.samples
    while samples > FEWEST and forwards * samples > subject.limit:
        samples //= 2
    return samples


def parts(images: Tensor, labels: Tensor, samples: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images[:samples].split(CHUNK), labels[:samples].split(CHUNK), strict=True))


def forward(model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> None:
    model.eval()
    with torch.no_grad():
        for images, _ in data:
            model(images)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]]) -> None:
    """A pass of training over the data, in minibatches of CHUNK."""
    model.train()
    for images, labels in data:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()


def measured(
    model: nn.Module,
    layout: Layout,
    batches: tuple[ProbeBatch, ...],
    initial: State,
    memory: dict[str, Tensor],
    notes: list[str],
    names: list[str],
) -> None:
    with undisturbed(model):
        probe = Probe(model, batches, layout, train_samples=50_000, initial_state=initial, memory=memory, notes=notes)
        if not compute(probe, names):
            raise LookupError("no value")


def peers(model: nn.Module, data: list[tuple[Tensor, Tensor]], samples: int) -> tuple[list[Case], list[str]]:
    """What peers compute of the same model on the same samples, and which of them are absent."""
    cases, missing = [], []
    try:
        import curvlinops  # type: ignore[import-not-found]
    except ImportError:
        missing.append("curvlinops: not installed")
    else:
        ggn = curvlinops.GGNLinearOperator(
            model.eval(), nn.CrossEntropyLoss(), list(model.parameters()), data, check_deterministic=False
        )
        trace = partial(curvlinops.hutchinson_trace, ggn, num_matvecs=TRACE_VECTORS)
        diagonal = partial(curvlinops.hutchinson_diag, ggn, num_matvecs=TRACE_VECTORS)
        cases += [
            Case(f"curvlinops Gauss-Newton trace, Hutchinson, {TRACE_VECTORS} vectors", samples, trace),
            Case(f"curvlinops Gauss-Newton diagonal, Hutchinson, {TRACE_VECTORS} vectors", samples, diagonal),
        ]
    try:
        from pyhessian import hessian  # type: ignore[import-not-found]
    except ImportError:
        missing.append("PyHessian: not installed")
    else:
        own = copy.deepcopy(model)

        def made() -> Any:
            return hessian(own, nn.CrossEntropyLoss(), dataloader=data, cuda=False)

        cases += [
            Case(
                f"PyHessian Hessian trace, Hutchinson, {TRACE_VECTORS} vectors",
                samples,
                lambda: made().trace(maxIter=TRACE_VECTORS, tol=0.0),
            ),
            Case(
                f"PyHessian top eigenvalue, power iteration, {POWER_ITERATIONS} rounds",
                samples,
                lambda: made().eigenvalues(maxIter=POWER_ITERATIONS, tol=0.0),
            ),
        ]
    return cases, missing


def compared(name: str, subject: Subject, rounds: int, most_forwards: float) -> None:
    torch.manual_seed(0)
    model = subject.build()
    initial = copy_state(model)
    labels = torch.arange(subject.samples) % 10
    images = torch.randn(subject.samples, 3, 32, 32) + torch.randn(10, 3, 32, 32)[labels]
    trained(model, images, labels, 0.9, most=20)
    reached = accuracy(model, images, labels)
    training = copy.deepcopy(model)
    optimizer = torch.optim.SGD(training.parameters(), 0.001, momentum=0.9)
    first = parts(images, labels, subject.samples)[0]
    with undisturbed(model):
        layout = Layout.of(model, ProbeBatch(first, first[1], first[0]), default_forward)
    memory: dict[str, Tensor] = {}
    notes: list[str] = []
    cases = []
    entries = MEASURES | ON_REQUEST
    repeated = [name for name, entry in MEASURES.items() if not entry.once]
    rows = {name: [name] for name in entries} | {"default measures together": repeated}
    for row, names in rows.items():
        declared = sum(entries[name].forwards for name in names)
        most = sum(entries[name].at_most or entries[name].forwards for name in names)
        if declared > most_forwards:
            continue
        samples = affordable(most, subject)
        batches = tuple(ProbeBatch((x, y), y, x) for x, y in parts(images, labels, samples))
        work = partial(measured, model, layout, batches, initial, memory, notes, names)
        cases.append(Case(f"{row} | {declared:g}{f' to {most:g}' if most > declared else ''}", samples, work))
    fewest = affordable(6.0 * TRACE_VECTORS, subject)
    others, missing = peers(model, parts(images, labels, fewest), fewest)
    cases += [case._replace(name=f"{case.name} | -") for case in others]
    sizes = sorted({case.samples for case in cases})
    data = {samples: parts(images, labels, samples) for samples in sizes}
    to_forward: dict[str, list[float]] = {case.name: [] for case in cases}
    to_step: dict[str, list[float]] = {case.name: [] for case in cases}
    failed: dict[str, str] = {}
    forward(model, data[sizes[0]])  # warms up
    step(training, optimizer, data[sizes[0]])
    for number in range(rounds):
        plain = {samples: seconds(partial(forward, model, data[samples])) for samples in sizes}
        steps = {samples: seconds(partial(step, training, optimizer, data[samples])) for samples in sizes}
        for case in cases:
            try:
                spent = seconds(case.work)
            except LookupError:
                failed[case.name] = "absent"
                continue
            except Exception as error:
                failed[case.name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
                continue
            to_forward[case.name].append(spent / plain[case.samples])
            to_step[case.name].append(spent / steps[case.samples])
        print(f"{name}: round {number + 1} of {rounds}", flush=True)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"\n{name}, {count} parameters, 32 x 32, fitted to {reached:.2f}, {rounds} rounds")
    print("| measure | forwards declared | samples | training steps | plain forwards |\n|---|---|---|---|---|")
    for case in cases:
        if case.name in failed:
            print(f"| {case.name} | {case.samples} | {failed[case.name]} | |")
            continue
        print(f"| {case.name} | {case.samples} | {spread(to_step[case.name])} | {spread(to_forward[case.name], 1)} |")
    for line in [*missing, *dict.fromkeys(f"note: {note}" for note in notes)]:
        print(line)
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=int, default=1, help="divides the samples and their limit")
    parser.add_argument("--most-forwards", type=float, default=math.inf, help="leave out measures that declare more")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of peers
    print(machine())
    for name in options.networks:
        build, samples, limit = SUBJECTS[name]
        subject = Subject(build, samples // options.share, limit // options.share)
        compared(name, subject, options.rounds, options.most_forwards)


if __name__ == "__main__":
    main()
