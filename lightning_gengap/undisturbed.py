"""The one guard: measure a model in training and leave no trace."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Switch = tuple[Callable[[Any], None], Any, Any]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a block on `model` in eval mode, and restore everything that the block may have changed.

    Inside, every submodule is in eval mode, gradients are enabled, inference mode and autocast are off, float32
    matrix products have full precision, compiled modules run eagerly, and encoders take the path that they train on.

    On exit, also after an exception, these are as before: the training flag of each submodule, every buffer (value and
    identity), every `.grad` (identity), and the random streams of Python, of NumPy, and of torch on the CPU and on
    every accelerator.

    Parameters are not copied. The block must not write to them; `Probe` calls the model at other weights without.

    Example:
        >>> import torch
        >>> from lightning_gengap.undisturbed import undisturbed
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout())
        >>> with undisturbed(model):
        ...     outputs = model(torch.randn(8, 4))
        >>> model.training, int(model[1].num_batches_tracked)
        (True, 0)
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
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
        stack.enter_context(_plain_attention())
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


def _restore_buffer(module: nn.Module, name: str, buffer: Tensor | None, value: Tensor | None) -> None:
    if module._buffers.get(name) is not buffer:
        module._buffers[name] = buffer
    if buffer is not None and value is not None and not torch.equal(buffer, value):
        with torch.no_grad():
            buffer.copy_(value)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Switch TF32 and bfloat16 products off: their short mantissas would spoil small margins."""
    switches = [(switch, before, full) for switch, before, full in _float32_switches() if before != full]
    try:
        for switch, _, full in switches:  # what has full precision already is left alone, and keeps its default
            switch(full)
        yield
    finally:
        for switch, before, _ in switches:
            switch(before)


def _float32_switches() -> list[Switch]:
    """Every switch of precision: how to set it, what it is now, and what stands for full precision."""
    backends: Any = torch.backends
    try:
        switches: list[Switch] = [(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision(), "highest")]
        if torch.cuda.is_initialized():
            switches.append((partial(setattr, backends.cudnn, "allow_tf32"), backends.cudnn.allow_tf32, False))
        return switches
    except RuntimeError:  # set through the `fp32_precision` of torch >= 2.9, which refuses to be mixed with these
        operations = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
        return [(partial(setattr, each, "fp32_precision"), each.fp32_precision, "ieee") for each in operations]


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Run encoders as in training: their fast path of eval mode hands on nested tensors where there is padding."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextmanager
def _eagerly() -> Iterator[None]:
    """Run compiled modules eagerly: hooks do not fire in compiled graphs, and derivatives do not pass them."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # torch >= 2.6
    if set_stance is None:
        yield
        return
    with set_stance("force_eager"):
        yield
