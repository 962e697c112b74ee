"""Measures once in a process of its own, and prints by how many MiB the peak of its memory grew."""

from __future__ import annotations

import resource
import sys
import warnings

import torch
from torch import nn

from lightning_gengap import measure
from lightning_gengap.network.probe import copy_state

IMAGES, SIDE, CLASSES, ROWS = 24, 224, 500, 24


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def images() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    inputs, targets = torch.randn(IMAGES, 3, SIDE, SIDE), torch.arange(IMAGES) % 4
    layers = [nn.Conv2d(3, 4, 7, stride=4), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))
    return model.eval(), list(zip(inputs.split(8), targets.split(8), strict=True))


def classes() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    return nn.Sequential(nn.Linear(32, CLASSES)), [(torch.randn(ROWS, 32), torch.arange(ROWS))]


def main(name: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what is absent
    model, data = classes() if name == "leave_one_out" else images()
    measure(model, [tuple(part[:8] for part in data[0])], ["fit"])  # loads what every measurement needs
    before = peak()
    measure(model, data, [name], initial_state=copy_state(model))
    print(peak() - before)


if __name__ == "__main__":
    main(sys.argv[1])
