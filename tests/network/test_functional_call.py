from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.network.folding import at_initial_weights
from lightning_gengap.network.functional_call import run_at
from tests import networks
from tests.probes import probing


class Twice(nn.Module):
    """A module under two names, a weight in two layers, a module within itself elsewhere, and a shared buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(192, 192), nn.Linear(192, 192), nn.BatchNorm1d(192)
        self.second.weight = self.first.weight
        self.stages = nn.ModuleList([self.first, self.norm])
        self.head = nn.Linear(192, 4)
        self.alias = self.head
        self.register_buffer("mean", self.norm.running_mean)

    def forward(self, images: Tensor) -> Tensor:
        return self.alias(torch.relu(self.second(self.stages[1](self.stages[0](images.flatten(1)))) - self.mean))


def places(model: nn.Module) -> list[Any]:
    return [
        (name, id(tensor), tensor.detach().tolist())
        for part in model.modules()
        for name, tensor in (*part._parameters.items(), *part._buffers.items())
        if tensor is not None
    ]


def other_state(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.rand(value.shape, generator=torch.Generator().manual_seed(7)) + 0.1
        for name, value in [*model.named_parameters(), *model.named_buffers()]
        if value.is_floating_point()
    }


@pytest.mark.parametrize("factory", [Twice, networks.mlp, networks.ResNet, networks.Reused], ids=lambda f: f.__name__)
def test_every_place_is_exchanged_and_put_back(factory: Any) -> None:
    model, images = networks.made(factory).eval(), networks.images(6)
    state, before = other_state(model), places(model)
    twin = copy.deepcopy(model)  # keeps what is shared
    with torch.no_grad():
        for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]:
            if name in state:
                tensor.copy_(state[name])
    assert torch.equal(run_at(model, state, lambda: model(images)), twin(images))
    assert places(model) == before


def test_a_call_that_fails_puts_everything_back() -> None:
    model = networks.made(Twice).eval()
    before = places(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run_at(model, other_state(model), lambda: model(torch.zeros(2, 5)))
    assert places(model) == before


def test_names_of_any_place_are_understood_and_strangers_ignored() -> None:
    model, images = networks.made(Twice).eval(), networks.images(6)
    zero = torch.zeros_like(model.head.weight)
    by_alias = run_at(model, {"alias.weight": zero, "stranger": zero}, lambda: model(images))
    assert torch.equal(by_alias, model.head.bias.expand(6, -1))


def test_a_probe_and_a_reading_at_other_weights_leave_shared_modules_alone() -> None:
    model, images = networks.made(Twice), networks.images(6)
    before = places(model)
    with probing(model, images, torch.arange(6) % 4, initial_state=other_state(model)) as probe:
        probe.logits_on(probe.batches[0].content, 6, other_state(model))
        assert float(at_initial_weights(probe, lambda: model.alias.bias.sum()) or 0.0) > 0
    assert places(model) == before
