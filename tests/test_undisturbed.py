from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.undisturbed import random_streams_kept, undisturbed
from tests import networks


class Interruption(BaseException):
    """As KeyboardInterrupt: not an Exception."""


def trained(model: nn.Module) -> nn.Module:
    """In training mode with gradients, and a batch norm and a dropout that the user froze."""
    model.train()
    model(networks.images()).sum().backward()
    model[1].eval()
    return model


def guarded(model: nn.Module, block: Callable[[], Any], interrupted: bool) -> None:
    with pytest.raises(Interruption) if interrupted else nullcontext(), undisturbed(model):
        block()
        if interrupted:
            raise Interruption


@pytest.fixture
def model() -> nn.Module:
    return trained(networks.made(networks.cnn_with_batch_norm))


@pytest.fixture(params=[False, True], ids=["returning", "interrupted"])
def interrupted(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_everything_is_in_eval_mode_inside(model: nn.Module) -> None:
    with undisturbed(model):
        assert not any(module.training for module in model.modules())


def test_each_module_keeps_its_own_mode(model: nn.Module, interrupted: bool) -> None:
    model.get_submodule("8").eval()
    model.get_submodule("3").eval()
    before = {name: module.training for name, module in model.named_modules()}
    guarded(model, lambda: model.train(), interrupted)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert set(before.values()) == {True, False}


def test_modes_are_restored_whatever_the_block_does_with_the_modules(model: nn.Module, interrupted: bool) -> None:
    model.eval()
    guarded(model, lambda: model.train(), interrupted)
    assert not any(module.training for module in model.modules())


def test_buffers_keep_their_values(model: nn.Module, interrupted: bool) -> None:
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def forward_in_training_mode() -> None:
        model.train()
        model(networks.images())

    guarded(model, forward_in_training_mode, interrupted)
    assert len(before) == 9
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_buffers_stay_the_same_tensors(model: nn.Module, interrupted: bool) -> None:
    before = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}

    def exchange() -> None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = torch.full_like(module.running_mean, 3.0)

    guarded(model, exchange, interrupted)
    for name, buffer in model.named_buffers():
        assert buffer is before[name][0]
        assert torch.equal(buffer, before[name][1])


def test_a_buffer_that_was_empty_is_empty_again(interrupted: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_buffer("mask", None)

    def fill() -> None:
        model.mask = torch.ones(2)

    guarded(model, fill, interrupted)
    assert model.mask is None


def test_buffers_that_are_not_numbers_survive() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_buffer("average", torch.tensor([float("nan"), 1.0]))
    with undisturbed(model):
        model.average.zero_()
    assert torch.equal(model.average.isnan(), torch.tensor([True, False]))


def test_gradients_stay_the_same_tensors(model: nn.Module, interrupted: bool) -> None:
    model[0].weight.grad = None
    before = [(parameter, parameter.grad) for parameter in model.parameters()]

    def replace() -> None:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)

    guarded(model, replace, interrupted)
    assert all(parameter.grad is gradient for parameter, gradient in before)
    assert sum(gradient is None for _, gradient in before) == 1


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def draws() -> list[float]:
    return [random.random(), float(np.random.random()), torch.rand(()).item()]


@pytest.mark.parametrize("guard", [lambda model: random_streams_kept(), undisturbed], ids=["streams", "model"])
def test_random_streams_go_on_as_if_nothing_happened(
    model: nn.Module, guard: Callable[[nn.Module], Any], interrupted: bool
) -> None:
    seed(0)
    expected = [draws(), draws()]
    seed(0)
    drawn = [draws()]
    with pytest.raises(Interruption) if interrupted else nullcontext(), guard(model):
        seed(5)
        draws()
        if interrupted:
            raise Interruption
    assert [*drawn, draws()] == expected


def test_gradients_flow_inside_no_grad(model: nn.Module) -> None:
    with torch.no_grad(), undisturbed(model):
        assert model(networks.images()).requires_grad
    assert torch.is_grad_enabled()


def test_inference_mode_is_off_inside(model: nn.Module) -> None:
    with torch.inference_mode():
        with undisturbed(model):
            assert not torch.is_inference_mode_enabled()
            assert networks.images().requires_grad_().sum().requires_grad
        assert torch.is_inference_mode_enabled()


def test_autocast_is_off_inside_and_on_again_after(model: nn.Module) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with undisturbed(model):
            assert model(networks.images()).dtype == torch.float32
        assert model(networks.images()).dtype == torch.bfloat16


@pytest.fixture
def precision() -> Iterator[None]:
    before, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    for operation in _operations():
        operation.fp32_precision = "none"
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = cudnn


def _operations() -> list[Any]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return [matmul, cudnn.conv, cudnn.rnn] if hasattr(matmul, "fp32_precision") else []


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("chosen", ["highest", "high", "medium"])
def test_matrix_products_have_full_precision_inside(model: nn.Module, chosen: str, interrupted: bool) -> None:
    torch.set_float32_matmul_precision(chosen)
    seen = []
    guarded(model, lambda: seen.append(torch.get_float32_matmul_precision()), interrupted)
    assert seen == ["highest"]
    assert torch.get_float32_matmul_precision() == chosen


@pytest.mark.usefixtures("precision")
@pytest.mark.skipif(not _operations(), reason="fp32_precision came with torch 2.9")
def test_precision_set_operation_by_operation_is_switched_and_restored(model: nn.Module, interrupted: bool) -> None:
    for operation in _operations():
        operation.fp32_precision = "tf32"
    seen: list[str] = []
    guarded(model, lambda: seen.extend(operation.fp32_precision for operation in _operations()), interrupted)
    assert seen == ["ieee"] * 3
    assert [operation.fp32_precision for operation in _operations()] == ["tf32"] * 3


@pytest.mark.usefixtures("precision")
def test_tf32_convolutions_are_switched_off_on_cuda(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", list)
    torch.backends.cudnn.allow_tf32 = True
    with undisturbed(model):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="stances came with torch 2.6")
def test_compiled_modules_run_eagerly_so_that_hooks_fire() -> None:
    compilations: list[Any] = []

    def backend(graph: Any, example_inputs: list[Tensor]) -> Any:
        compilations.append(graph)
        return graph.forward

    model = torch.compile(networks.made(networks.mlp), backend=backend)
    fired: list[bool] = []
    with undisturbed(model):
        model._orig_mod[1].register_forward_hook(lambda *_: fired.append(True))
        model(networks.images())
    assert fired
    assert not compilations


def test_guards_nest(model: nn.Module) -> None:
    before = {name: module.training for name, module in model.named_modules()}
    with undisturbed(model):
        with undisturbed(model):
            pass
        assert not any(module.training for module in model.modules())
    assert {name: module.training for name, module in model.named_modules()} == before
