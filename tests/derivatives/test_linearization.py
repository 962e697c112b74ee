"""The traced derivative against `torch.func.jvp`, and what it keeps in memory."""

from __future__ import annotations

import linecache
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.fx import graph_module

from lightning_gengap.derivatives.linearization import linearize
from tests import networks

Function = Callable[..., Tensor]


def function_of(model: nn.Module, inputs: Tensor) -> tuple[Function, tuple[Tensor, ...]]:
    names = [name for name, _ in model.named_parameters()]
    weights = tuple(weight.detach() for weight in model.parameters())
    return lambda *parts: functional_call(model, dict(zip(names, parts, strict=True)), (inputs,)), weights


@pytest.mark.parametrize("factory", [networks.mlp, networks.cnn_with_batch_norm, networks.ResNet, networks.Recurrent])
def test_products_are_the_derivative_at_every_call(factory: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    function, weights = function_of(factory().double().eval(), networks.images(5).double())
    applied = linearize(function, *weights)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        along = tuple(torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in weights)
        torch.testing.assert_close(applied(*along), jvp(function, weights, along)[1], rtol=1e-10, atol=1e-12)


def test_no_weight_is_copied() -> None:
    model = nn.Sequential(nn.Linear(8, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 3))
    function, weights = function_of(model, torch.randn(4, 8))
    applied = linearize(function, *weights)
    assert isinstance(applied, nn.Module)
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    kept = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in applied.buffers()}
    assert own & set(kept)  # the wide layer's weight is kept, as it is
    assert sum(size for at, size in kept.items() if at not in own) < 300 * 300 * 4 / 5  # activations only


def test_no_text_of_compiled_graphs_is_left_behind() -> None:
    function, weights = function_of(nn.Linear(3, 2), torch.randn(4, 3))
    before = set(linecache.cache), len(graph_module._loader.eval_cache)
    linearize(function, *weights)
    assert (set(linecache.cache), len(graph_module._loader.eval_cache)) == before


def test_a_constant_function_has_no_derivative_and_no_error() -> None:
    applied = linearize(lambda weight: torch.ones(3), torch.randn(4))
    assert applied(torch.randn(4)).tolist() == [0, 0, 0]


def test_an_operation_without_forward_mode_is_refused() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, value: Tensor) -> Tensor:
            return 2 * value

        @staticmethod
        def backward(ctx: object, *cotangents: Tensor) -> Tensor:
            return 2 * cotangents[0]

    def doubled(value: Tensor) -> Tensor:
        found: Tensor = Doubled.apply(value)
        return found

    with pytest.raises((NotImplementedError, RuntimeError), match=r"jvp|forward"):
        linearize(doubled, torch.randn(3))
