"""Cost of measuring margins, against a bare forward + input-backward and against a training step, interleaved.

    python benchmarks/margins.py [--samples 1024] [--rounds 9]

Each round times the three on the same samples in turn; the table gives the median ratio and its range over rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gengap.measures.margins.margin import logit_gap, margin
from lightning_gengap.network.layers import Layout
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import ProbeBatch, default_forward
from lightning_gengap.undisturbed import undisturbed
from lightning_gengap.zoo.train.architectures import ResNet, VisionTransformer, network_in_network

CHUNK = 128
MODELS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "small CNN": (lambda: network_in_network(3, 10, 16, 1, 0.0, True), 1.20),
    "ResNet-20": (lambda: ResNet(3, 10, 16, 3), 1.10),
    "ViT d128 x 6": (lambda: VisionTransformer(3, 32, 10, 128, 6), 1.10),
}


def bare(model: nn.Module, batches: list[ProbeBatch]) -> None:
    for batch in batches:
        inputs = batch.inputs.detach().requires_grad_()
        gap = logit_gap(model(inputs), batch.targets)
        torch.autograd.grad(gap.sum(), inputs)


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[ProbeBatch]) -> None:
    for batch in batches:
        optimizer.zero_grad()
        cross_entropy(model(batch.inputs), batch.targets).backward()
        optimizer.step()


def seconds(work: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(build: Callable[[], nn.Module], samples: int, rounds: int, device: str) -> tuple[list[float], list[float]]:
    torch.manual_seed(0)
    model = build().to(device)
    trained = build().to(device)
    optimizer = torch.optim.SGD(trained.parameters(), 0.01, momentum=0.9)
    images, labels = torch.randn(samples, 3, 32, 32, device=device), torch.randint(0, 10, (samples,), device=device)
    parts: list[tuple[Tensor, Tensor]] = list(zip(images.split(CHUNK), labels.split(CHUNK), strict=True))
    batches = [ProbeBatch((x, y), y, x) for x, y in parts]
    with undisturbed(model):
        layout = Layout.of(model, batches[0], default_forward)

        def measured() -> None:
            margin(Probe(model=model, batches=tuple(batches), layout=layout))

        to_bare, to_step = [], []
        for round_number in range(rounds + 1):
            ours = seconds(measured)
            plain = seconds(lambda: bare(model, batches))
            step = seconds(lambda: training_step(trained, optimizer, batches))
            if round_number:  # the first round warms up
                to_bare.append(ours / plain)
                to_step.append(ours / step)
    return to_bare, to_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {options.samples} samples", end="")
    print(f", {options.rounds} rounds: median ratio [range]")
    print("| model | margins / (forward + input-backward) | bar | margins / training step |")
    print("|---|---|---|---|")
    for name, (build, bar) in MODELS.items():
        to_bare, to_step = compare(build, options.samples, options.rounds, device)
        print(f"| {name} | {spread(to_bare)} | {bar:.2f} | {spread(to_step)} |", flush=True)


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


if __name__ == "__main__":
    main()
