"""Networks that an optimizer with weight decay has trained for some steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy

from tests.derivatives.tasks import small_mlp, task

COUNT = 20
Make = Callable[[nn.Module], optim.Optimizer]


def grouped(model: nn.Module, decay: float, other: float, make: Callable[..., Any] = optim.SGD) -> Any:
    """Matrices decay by `decay`, vectors by `other`."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": other}]
    return make(groups, lr=0.01)


def adamw(model: nn.Module) -> optim.Optimizer:
    return optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.03, betas=(0.8, 0.95))


def trained_by(make: Make, steps: int = 15) -> tuple[nn.Module, Any, Tensor, Tensor]:
    """A small network, its optimizer, inputs and targets."""
    model, images, targets = task(small_mlp, COUNT)
    optimizer = make(model)
    for step in range(steps):
        rows = torch.arange(COUNT) % 4 == step % 4
        optimizer.zero_grad()
        cross_entropy(model(images[rows]), targets[rows]).backward()
        optimizer.step()
    return model, optimizer, images, targets
