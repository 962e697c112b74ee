"""The blocks that are read off the graph of a forward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.errors import Undefined
from lightning_gengap.network.folding_check import checked
from lightning_gengap.network.layer_graph import Block
from lightning_gengap.zoo.train.convolutional_networks import mobilenet
from lightning_gengap.zoo.train.shape import Shape
from tests import networks
from tests.probes import probing

TARGETS = torch.arange(12) % networks.CLASSES


def blocks_in(model: nn.Module) -> tuple[Block, ...] | Undefined:
    with probing(model, networks.images(12), TARGETS) as probe:
        return probe.cached(checked).blocks


@pytest.mark.parametrize("factory", [networks.mlp, networks.cnn_with_batch_norm, networks.VGG, networks.Nested])
def test_a_chain_has_no_blocks(factory: type[nn.Module]) -> None:
    assert blocks_in(networks.made(factory)) == ()


def test_basic_blocks_have_two_layers_beside_an_identity_or_a_projection() -> None:
    assert set(blocks_in(networks.made(networks.ResNet))) == {
        Block(("layer1.conv1", "layer1.conv2"), None),
        Block(("layer2.conv1", "layer2.conv2"), "layer2.shortcut"),
        Block(("layer3.conv1", "layer3.conv2"), None),
    }


def test_inverted_residual_blocks_have_three_and_some_have_no_shortcut() -> None:
    model = networks.made(lambda: mobilenet(Shape(3, 8, networks.CLASSES, 4, 2)))
    names = {place for place, block in enumerate(model) if getattr(block, "shortcut", False)}
    assert {block.branch for block in blocks_in(model)} == {
        tuple(f"{place}.body.{i}" for i in (0, 3, 6)) for place in names
    }
    assert 0 < len(names) < sum(hasattr(block, "shortcut") for block in model)


class Dense(nn.Module):
    """A concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(192, 6), nn.Linear(198, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return self.head(torch.cat([flat, self.first(flat)], dim=1))


class Broadcast(nn.Module):
    """A sum of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(192, 6), nn.Linear(6, 1), nn.Linear(6, networks.CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.stem(images.flatten(1)))
        return self.head(x + self.gate(x))


@pytest.mark.parametrize(("factory", "operation"), [(Dense, "Cat"), (Broadcast, "Add")])
def test_a_place_where_tensors_meet_otherwise_is_named(factory: type[nn.Module], operation: str) -> None:
    blocks = blocks_in(networks.made(factory))
    assert isinstance(blocks, Undefined)
    assert blocks.reason.startswith(f"{operation} joins tensors in another way")
