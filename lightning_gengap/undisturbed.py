"""The one guard: measure a model in training and leave no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a block on `model` in eval mode and restore everything it may have changed.

    Inside: every submodule in eval mode, gradients enabled, inference mode and autocast off, full float32
    matrix products, compiled modules run eagerly. On exit, also after an exception: each submodule's own
    training flag, every buffer (value and identity), every `.grad` (identity), and the random streams of
    Python, NumPy, torch on the CPU and on every accelerator are as before.

    Parameters are not copied: a measure must not write to them (see `Probe`, which calls functionally).
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    with ExitStack() as stack:
        stack.enter_context(random_streams_kept())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device_type in {"cpu", *(parameter.device.type for parameter in model.parameters())} - {"meta"}:
            stack.enter_context(torch.autocast(device_type, enabled=False, cache_enabled=False))
        stack.enter_context(_full_float32())
        stack.enter_context(_eagerly())
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter, gradient in gradients:
                if parameter.grad is not gradient:
                    parameter.grad = gradient
            for module, name, buffer, value in buffers:
                _restore_buffer(module, name, buffer, value)


@contextmanager
def random_streams_kept() -> Iterator[None]:
    """Restore the Python, NumPy, CPU and accelerator random streams on exit, also after an exception."""
    python_state, numpy_state, cpu_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    mps_state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)


def _restore_buffer(module: nn.Module, name: str, buffer: Tensor, value: Tensor) -> None:
    if module._buffers.get(name) is not buffer:
        module._buffers[name] = buffer
    if not torch.equal(buffer, value):
        with torch.no_grad():
            buffer.copy_(value)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Switch TF32 off on CUDA: its ten-bit mantissa would spoil small margins."""
    if not torch.cuda.is_initialized():
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = cudnn


@contextmanager
def _eagerly() -> Iterator[None]:
    """Run compiled modules eagerly: hooks do not fire in, and derivatives do not pass, compiled graphs."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # torch >= 2.6
    if set_stance is None:
        yield
        return
    with set_stance("force_eager"):
        yield
