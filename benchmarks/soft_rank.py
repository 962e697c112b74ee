"""Accuracy and cost of the soft rank: against the exact Gram matrix, a training step, and curvlinops where installed.

    python benchmarks/soft_rank.py [--seeds 20] [--rounds 7] [--peer-seconds 30]

Random images with a faint class mean, a few training steps. Errors are over the seeds of the random start; times are
medians of interleaved rounds with their range. "Held" counts the seeds whose bracket holds their exact form.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap.batches import ProbeBatch, default_forward
from lightning_gengap.curvature import Curvature, dual_curvature, jacobian_of
from lightning_gengap.layers import Layout
from lightning_gengap.measures.leave_one_out import gram_of
from lightning_gengap.measures.soft_rank import estimated
from lightning_gengap.probe import Probe
from lightning_gengap.undisturbed import undisturbed
from lightning_gengap.zoo.architectures import ResNet

CHUNK, CLASSES, SLACK = 64, 10, 1e-4  # float32 products move a form by up to 1e-4


def dense(side: int = 8) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * side**2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES)
    )


def lenet() -> nn.Module:
    features = [nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES)]
    return nn.Sequential(*features, *head)


# Builder, side of the images, samples, training steps.
MODELS: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {
    "MLP": (dense, 8, 200, 10),
    "LeNet": (lenet, 32, 100, 60),
    "ResNet-20": (lambda: ResNet(3, CLASSES, 16, 3), 32, 32, 5),
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    for x, y in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


def seconds(work: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def exact_matrix(probe: Probe, curvature: Curvature) -> Tensor:
    """K from the explicit Jacobian."""
    jacobian, _, _ = jacobian_of(probe, len(probe.targets))
    gram = gram_of(jacobian)
    shape = (*curvature.probabilities.shape, -1)
    roots = curvature.probabilities.sqrt()[:, :, None]

    def half(matrix: Tensor) -> Tensor:
        columns = matrix.reshape(shape)
        inner = (curvature.probabilities[:, :, None] * columns).sum(dim=1, keepdim=True)
        return (roots * (columns - inner)).flatten(0, 1)

    return half(half(gram).T) / shape[0]


def accuracy(probe: Probe, curvature: Curvature, ridge: float, seeds: int) -> tuple[str, float, float]:
    """A table cell, the exact soft rank and the relative root mean square error."""
    eigenvalues, vectors = torch.linalg.eigh(exact_matrix(probe, curvature))
    shrunk = eigenvalues.clamp(min=0) / (eigenvalues.clamp(min=0) + ridge)
    exact = float(shrunk.sum())
    errors, products, starts, held = [], [], [], 0
    for seed in range(seeds):
        spectrum = estimated(curvature, ridge, seed)
        bracket = spectrum.soft_rank(ridge)
        generator = torch.Generator().manual_seed(seed)
        own = [(curvature.random_signs(generator) @ vectors).square() @ shrunk for _ in spectrum.runs]
        form = float(sum(own)) / len(own)
        held += bracket.lower <= form * (1 + SLACK) and bracket.upper >= form * (1 - SLACK)
        errors.append(bracket.middle / exact - 1)
        products.append(sum(map(len, spectrum.runs)))
        starts.append(len(spectrum.runs))
    rms = statistics.fmean(error**2 for error in errors) ** 0.5
    worst = max(errors, key=abs)
    cell = (
        f"{exact:.1f} | {100 * statistics.fmean(errors):+.1f} % | {100 * rms:.1f} % | {100 * worst:+.1f} % | "
        f"{statistics.median(products):.0f} [{min(products)}, {max(products)}] | {statistics.median(starts):.0f} | "
        f"{held}/{seeds}"
    )
    return cell, exact, rms


def product_over_step(curvature: Curvature, model: nn.Module, images: Tensor, labels: Tensor, rounds: int) -> str:
    trained = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(trained.parameters(), 0.001, momentum=0.9)
    vector = curvature.random_signs(torch.Generator().manual_seed(0))
    ratios = []
    for number in range(rounds + 1):
        ours = seconds(lambda: curvature.product(vector))
        plain = seconds(lambda: step(trained, optimizer, images, labels))
        if number:  # the first round warms up
            ratios.append(ours / plain)
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def curvlinops_times(
    model: nn.Module, parts: list[tuple[Tensor, Tensor]], ridge: float, exact: float, goal: float, limit: float
) -> str:
    """Its Hutchinson trace of G (G + ridge)^-1 by conjugate gradients, until the error over 3 starts meets the goal."""
    try:
        import curvlinops  # type: ignore[import-not-found]
        from curvlinops.examples import IdentityLinearOperator  # type: ignore[import-not-found]
    except ImportError:
        return "not installed"
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ggn: Any = curvlinops.GGNLinearOperator(model, nn.CrossEntropyLoss(), parameters, parts, check_deterministic=False)
    size = sum(parameter.numel() for parameter in parameters)
    like = parameters[0]
    identity = IdentityLinearOperator([parameter.shape for parameter in parameters], like.device, like.dtype)
    damped = ggn + ridge * identity
    spent, said = 0.0, ""

    def form(inverse: Any, start: Tensor, into: list[float]) -> None:
        into.append(float(start @ (ggn @ (inverse @ start))))

    for iterations in (30, 60, 120, 240):
        inverse = curvlinops.CGInverseLinearOperator(
            damped, max_iter=iterations, max_tridiag_iter=iterations, tolerance=1e-8
        )
        errors, times = [], []
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            start = (torch.randint(0, 2, (size,), generator=generator).float() * 2 - 1).to(like.device)
            found: list[float] = []
            times.append(seconds(partial(form, inverse, start, found)))
            errors.append(found[0] / exact - 1)
            spent += times[-1]
        rms = statistics.fmean(error**2 for error in errors) ** 0.5
        said = f"{statistics.median(times):.1f} s at {100 * rms:.1f} % ({iterations} iterations)"
        if rms <= goal or spent > limit:
            return said
    return said


def run(name: str, ridge: float, options: argparse.Namespace, device: str) -> str:
    torch.manual_seed(0)
    build, side, samples, steps = MODELS[name]
    labels = torch.randint(0, CLASSES, (samples,))
    images = torch.randn(samples, 3, side, side) + 0.5 * torch.randn(CLASSES, 3, side, side)[labels]
    images, labels, model = images.to(device), labels.to(device), build().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(steps):
        step(model, optimizer, images, labels)
    parts = list(zip(images.split(CHUNK), labels.split(CHUNK), strict=True))
    batches = tuple(ProbeBatch(part, part[1], part[0]) for part in parts)
    with undisturbed(model):
        probe = Probe(model, batches, Layout.of(model, batches[0], default_forward))
        curvature = dual_curvature(probe)
        assert curvature is not None, probe.notes
        cell, exact, rms = accuracy(probe, curvature, ridge, options.seeds)
        ratio = product_over_step(curvature, model, images, labels, options.rounds)
        fresh = Probe(model, batches, probe.layout)
        ours = seconds(lambda: estimated(dual_curvature(fresh) or curvature, ridge, 0))
        peer = curvlinops_times(model, parts, ridge, exact, max(rms, 0.05), options.peer_seconds)
    loss = float(cross_entropy(model.eval()(images), labels).detach())
    return (
        f"| {name} | {curvature.parameters} | {samples} | {loss:.3f} | {ridge:g} | {cell} | {curvature.rung} "
        f"| {ratio} | {ours:.1f} s | {peer} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer-seconds", type=float, default=30, help="per model, for curvlinops")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--ridges", type=float, nargs="*", default=[5e-4])
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {options.seeds} seeds")
    print(
        f"basis at 1024 samples, 10 classes, 60 products: {8 * 60 * 1024 * 10 / 2**20:.1f} MiB, plus two weight vectors"
    )
    print(
        "| model | parameters | samples | loss | ridge | exact | mean error | rms | worst | products | starts | held | "
        "rung | product / step | one value, with set-up | curvlinops |"
    )
    print("|" + "---|" * 16)
    for name in options.models:
        for ridge in options.ridges:
            print(run(name, ridge, options, device), flush=True)


if __name__ == "__main__":
    main()
