"""Networks, data and probes that several benchmarks measure."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from lightning_gengap.network.layers import Layout
from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.batches import ProbeBatch
from lightning_gengap.samples.calling import default_forward
from lightning_gengap.zoo.train.convolutional_networks import ResidualBlock, ResNet
from lightning_gengap.zoo.train.datasets import load
from lightning_gengap.zoo.train.shape import Shape


def dense(classes: int = 10, width: int = 32, inputs: int = 64) -> nn.Module:
    layers = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)]
    return nn.Sequential(nn.Flatten(), *layers)


def lenet() -> nn.Module:
    features = [nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*features, *head)


def resnet_20() -> nn.Module:
    return ResNet(Shape(3, 32, 10, width=16, depth=3))


def resnet_18(classes: int = 10) -> nn.Module:
    """For images of 32 x 32: four stages of two blocks, a 3 x 3 stem without pooling, 11 million parameters."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    inner = 64
    for stage, outer in enumerate((64, 128, 256, 512)):
        layers += [ResidualBlock(inner, outer, 2 if stage else 1), ResidualBlock(outer, outer, 1)]
        inner = outer
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, classes))


def images(source: str, count: int, directory: Path | None, side: int | None = None) -> tuple[Tensor, Tensor]:
    """The first `count` of a seeded shuffle of the training split, standardised; digits are enlarged to `side`."""
    pixels, labels = load(source, "train", directory)
    chosen = np.random.default_rng(0).permutation(len(labels))[:count]
    tensor = torch.from_numpy(np.ascontiguousarray(pixels[chosen])).permute(0, 3, 1, 2).float()
    if side is not None:
        tensor = interpolate(tensor, size=(side, side), mode="bilinear").expand(-1, 3, -1, -1)
    mean, deviation = tensor.mean(dim=(0, 2, 3), keepdim=True), tensor.std(dim=(0, 2, 3), keepdim=True)
    return ((tensor - mean) / deviation).contiguous(), torch.from_numpy(labels[chosen])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In eval mode, which the model is left in."""
    model.eval()
    with torch.no_grad():
        return float((torch.cat([model(part) for part in images.split(256)]).argmax(1) == labels).float().mean())


def trained(model: nn.Module, images: Tensor, labels: Tensor, target: float, most: int = 200) -> int:
    """Adam until the accuracy on the training images reaches the target; the epochs that took."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(most):
        if accuracy(model, images, labels) >= target:
            return epoch
        model.train()
        for rows in torch.randperm(len(images), generator=generator).split(64):
            training_step(model, optimizer, images[rows], labels[rows])
    return most


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """One step on the mean cross-entropy, in the mode that the model is in."""
    optimizer.zero_grad()
    cross_entropy(model(images), labels).backward()
    optimizer.step()


def probe_of(model: nn.Module, images: Tensor, labels: Tensor, chunk: int | None = None) -> Probe:
    """A probe of the model on these samples, in batches of `chunk` or in one; enter `undisturbed` first."""
    size = chunk or len(images)
    pairs = zip(images.split(size), labels.split(size), strict=True)
    batches = tuple(ProbeBatch((x, y), y, x) for x, y in pairs)
    return Probe(model=model, batches=batches, layout=Layout.of(model, batches[0], default_forward))
