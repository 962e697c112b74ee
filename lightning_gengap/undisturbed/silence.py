"""What a user's code must not notice of a measurement: its backward hooks do not fire, and its `log` logs nothing."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gengap.undisturbed.log_calls import unlogged

_MODULE_HOOKS = ("_backward_hooks", "_backward_pre_hooks")
_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


@contextmanager
def silenced(model: nn.Module) -> Iterator[None]:
    """No backward hook of the user's fires, and `self.log` of every LightningModule does nothing."""
    with ExitStack() as stack:
        for registry in (torch.nn.modules.module._global_backward_hooks, _global("_global_backward_pre_hooks")):
            stack.enter_context(_emptied(registry))
        stack.enter_context(unlogged(model))
        for module in model.modules():
            attributes = vars(module)
            for name in _MODULE_HOOKS:
                if attributes.get(name):
                    stack.enter_context(_emptied(attributes[name]))
        for parameter in model.parameters():
            for name in _TENSOR_HOOKS:
                if getattr(parameter, name, None):
                    stack.enter_context(_without_hooks(parameter, name))
        yield


def _global(name: str) -> MutableMapping[int, Any]:
    return getattr(torch.nn.modules.module, name, {})


@contextmanager
def _emptied(registry: MutableMapping[int, Any]) -> Iterator[None]:
    hooks = dict(registry)
    registry.clear()
    try:
        yield
    finally:
        registry.clear()
        registry.update(hooks)


@contextmanager
def _without_hooks(tensor: Tensor, name: str) -> Iterator[None]:
    hooks = getattr(tensor, name)
    setattr(tensor, name, None)
    try:
        yield
    finally:
        with suppress(RuntimeError):  # the tensor does not require a gradient any more
            setattr(tensor, name, hooks)
