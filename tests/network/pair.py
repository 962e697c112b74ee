"""A convolution, a batch norm and a head, which tests of folding join in several ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests import networks


class Pair(nn.Module):
    """A convolution and a batch norm, registered the other way round, and a head; subclasses join them."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm = nn.Linear(3, networks.CLASSES), nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(networks.CHANNELS, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.joined(images)).mean(dim=(2, 3)))

    def joined(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images))
