from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lightning_gengap.errors import Undefined
from lightning_gengap.measures.activations import activations_at, first_weight_layer
from lightning_gengap.network.probe import copy_state
from tests import networks
from tests.probes import probing, read


@pytest.mark.parametrize("chunk", [None, 7])
def test_rows_are_pooled_activations_at_the_present_or_at_other_weights(chunk: int | None) -> None:
    model, images = networks.made(networks.mlp).eval(), networks.images(20)
    then = copy_state(model)
    expected_then = model[:3](images).detach()
    with torch.no_grad():
        model[1].bias.add_(1)
    with probing(model, images, torch.arange(20) % 4, chunk=chunk, layers=["2", "4", "6"]) as probe:
        for state, expected in ((None, model[:3](images).detach()), (then, expected_then)):
            rows = activations_at(probe, probe.layout.taps[:1], lambda activation: 2 * activation, state)
            assert list(rows) == ["h1"]
            torch.testing.assert_close(rows["h1"], 2 * expected)


def test_the_first_weight_layer_is_that_of_the_forward_not_of_the_module_list() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(8, 4), nn.Linear(192, 8)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(images.flatten(1)))

    with probing(Backwards(), networks.images(8), torch.arange(8) % 4) as probe:
        assert first_weight_layer(probe).module == "body"


def test_a_network_without_weight_layers_has_no_first_one() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(192), nn.AdaptiveAvgPool1d(4))
    with (
        probing(model, networks.images(8), torch.arange(8) % 4) as probe,
        pytest.raises(Undefined, match="calls no linear or convolutional layer"),
    ):
        first_weight_layer(probe)


def test_activations_of_batches_that_are_padded_apart_are_undefined() -> None:
    model = nn.Sequential(
        nn.Conv1d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    apart = read(torch.randn(6, 3, 7), torch.arange(6) % 2)
    with probing(model, torch.randn(8, 3, 9), torch.arange(8) % 2, layers=["0", "4"]) as probe:
        padded = replace(probe, batches=(*probe.batches, *apart))
        with pytest.raises(Undefined, match="at h1, the activations differ in shape between batches; pad the samples"):
            activations_at(padded, probe.layout.taps, lambda activation: activation)
