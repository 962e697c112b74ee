"""Room in the memory that is left, and what a graph keeps."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.derivatives.memory import kept_by, room_for
from lightning_gengap.errors import out_of_memory

MESSAGES = {
    "cuda": "CUDA out of memory. Tried to allocate 20.00 GiB.",
    "cpu": "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ...",
    "cublas": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
}


def test_a_quarter_is_left_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for left, fitting in ((1000, [True, False]), (None, [True, True])):
        monkeypatch.setattr("lightning_gengap.derivatives.memory.available", lambda left=left: left)
        assert [room_for(count) for count in (750, 751)] == fitting


def test_a_graph_keeps_activations_once_and_weights_whatever_the_samples() -> None:
    model = nn.Sequential(nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 3), nn.Tanh())
    two, five = (kept_by(lambda count=count: model(torch.randn(count, 10))) for count in (2, 5))
    # Inputs of the layers (the ReLU's output is the second layer's input) and the output of tanh, in float32.
    assert five - two == 4 * 3 * (10 + 7 + 3)
    assert two == 4 * 2 * (10 + 7 + 3) + 4 * 7 * 3  # the gradient of the ReLU's output takes the second layer's weights


@pytest.mark.parametrize("own", [torch.relu, torch.sigmoid, torch.tanh, torch.exp, torch.sqrt, nn.Softmax(dim=1)])
def test_operations_that_save_their_own_output_are_freed(own: Callable[[Tensor], Tensor]) -> None:
    """The output holds its operation and, through the hook, the operation its output: no collector sees that circle."""
    outputs: list[weakref.ref[Tensor]] = []

    def forward() -> Tensor:
        output = own(torch.rand(3, 2).requires_grad_())
        outputs.append(weakref.ref(output))
        return output

    assert kept_by(forward) == 4 * 3 * 2
    gc.collect()
    assert outputs[0]() is None


def test_a_gradient_inside_the_forward_is_counted_too() -> None:
    """What was saved is read again there, with its own history."""
    inputs = torch.rand(3, 2).requires_grad_()

    def forward() -> Tensor:
        (slope,) = torch.autograd.grad(inputs.exp().sum(), inputs, create_graph=True)
        return slope * inputs

    assert kept_by(forward) >= 4 * 3 * 2


def test_without_a_graph_nothing_is_kept() -> None:
    def detached() -> Tensor:
        with torch.no_grad():
            return nn.Linear(4, 4)(torch.randn(2, 4))

    assert kept_by(detached) == 0


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_lack_of_memory_is_known_by_its_words(message: str) -> None:
    assert out_of_memory(RuntimeError(message))
    kind = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
    assert out_of_memory(kind(message))


@pytest.mark.parametrize("text", ["a size mismatch", "memory format", "expected all tensors on one device"])
def test_other_texts_are_no_lack_of_memory(text: str) -> None:
    assert not out_of_memory(RuntimeError(text))
    assert not out_of_memory(ValueError("out of memory"))
