"""Small networks whose fit under changes of the weights is known, or nearly perfect."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests import networks

SAMPLES = 400
Task = tuple[nn.Module, Tensor, Tensor]  # a network, inputs and targets


def separate(rivals: Tensor | None = None) -> Task:
    """One weight pair per sample: the true class's is 1, the other's 0 or given, so that margins fail one by one."""
    targets = torch.arange(SAMPLES) % 2
    model = nn.Linear(SAMPLES, 2, bias=False).double()
    with torch.no_grad():
        rows = torch.arange(SAMPLES)
        model.weight.zero_()
        model.weight[targets, rows] = 1.0
        if rivals is not None:
            model.weight[1 - targets, rows] = rivals.double()
    return model, torch.eye(SAMPLES).double(), targets


def trained(factory: Callable[[], nn.Module], count: int = 40) -> Task:
    """A network and targets of four equal classes that it nearly always predicts."""
    model, images = networks.made(factory).double().eval(), networks.images(count).double()
    with torch.no_grad():
        features = model[:-1](images)
        targets = torch.arange(count) % networks.CLASSES
        goal = 4 * torch.eye(networks.CLASSES).double()[targets]
        padded = torch.cat([features, torch.ones(count, 1).double()], dim=1)
        solution = torch.linalg.lstsq(padded, goal, driver="gelsd").solution
        model[-1].weight.copy_(solution[:-1].T)
        model[-1].bias.copy_(solution[-1])
    return model, images, targets


def wide() -> nn.Sequential:
    """ReLU network and batch norms with enough features to fit forty samples."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(36, 48), nn.ReLU(), nn.Linear(48, 4),
    )  # fmt: skip
