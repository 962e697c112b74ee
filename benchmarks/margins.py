"""Cost of measuring margins, beside a bare forward with an input backward and beside a training step.

    python benchmarks/margins.py [--samples 1024] [--rounds 9]

Each round times the three on the same samples in turn. The table gives the median ratio and its range over rounds.
"""

import argparse
from collections.abc import Callable

import torch
from networks import probe_of, resnet_20, training_step
from timing import in_turn, machine, spread
from torch import nn

from lightning_gengap.measures.margins.margin import logit_gap, margin
from lightning_gengap.network.probe import Probe
from lightning_gengap.undisturbed import undisturbed
from lightning_gengap.zoo.train.attention_networks import VisionTransformer
from lightning_gengap.zoo.train.convolutional_networks import network_in_network
from lightning_gengap.zoo.train.shape import Shape

CHUNK = 128
MODELS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "small CNN": (lambda: network_in_network(Shape(3, 32, 10, width=16, depth=1)), 1.20),
    "ResNet-20": (resnet_20, 1.10),
    "ViT d128 x 6": (lambda: VisionTransformer(Shape(3, 32, 10, width=64, depth=5)), 1.10),
}


def bare(probe: Probe) -> None:
    for batch in probe.batches:
        inputs = batch.inputs.detach().requires_grad_()
        gap = logit_gap(probe.model(inputs), batch.targets)
        torch.autograd.grad(gap.sum(), inputs)


def compare(build: Callable[[], nn.Module], samples: int, rounds: int, device: str) -> tuple[list[float], list[float]]:
    """By round, the cost of the margins in bare passes and in training steps."""
    torch.manual_seed(0)
    model, twin = build().to(device), build().to(device)
    optimizer = torch.optim.SGD(twin.parameters(), 0.01, momentum=0.9)
    images, labels = torch.randn(samples, 3, 32, 32, device=device), torch.randint(0, 10, (samples,), device=device)
    with undisturbed(model):
        probe = probe_of(model, images, labels, CHUNK)

        def epoch() -> None:
            for batch in probe.batches:
                training_step(twin, optimizer, batch.inputs, batch.targets)

        def measured() -> None:
            margin(Probe(model=model, batches=probe.batches, layout=probe.layout))  # with nothing cached

        times = in_turn((measured, lambda: bare(probe), epoch), rounds)
    return [ours / plain for ours, plain, _ in times], [ours / step for ours, _, step in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{machine()}, {options.samples} samples, {options.rounds} rounds: median ratio [range]")
    print("| model | margins / (forward + input-backward) | bar | margins / training step |")
    print("|---|---|---|---|")
    for name, (build, bar) in MODELS.items():
        to_bare, to_step = compare(build, options.samples, options.rounds, device)
        print(f"| {name} | {spread(to_bare)} | {bar:.2f} | {spread(to_step)} |", flush=True)


if __name__ == "__main__":
    main()
