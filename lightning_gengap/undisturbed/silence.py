"""What a user's code must not notice of a measurement: its backward hooks do not fire, and its `log` logs nothing."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

_MODULE_HOOKS = ("_backward_hooks", "_backward_pre_hooks")
_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_LOGS = ("log", "log_dict")


@contextmanager
def silenced(model: nn.Module) -> Iterator[None]:
    """No backward hook of the user's fires, and `self.log` of every LightningModule does nothing."""
    with ExitStack() as stack:
        for registry in (torch.nn.modules.module._global_backward_hooks, _global("_global_backward_pre_hooks")):
            stack.enter_context(_emptied(registry))
        lightning: dict[type, bool] = {}
        for module in model.modules():
            if type(module) not in lightning:
                lightning[type(module)] = is_lightning(module)
            attributes = vars(module)
            for name in _MODULE_HOOKS:
                if attributes.get(name):
                    stack.enter_context(_emptied(attributes[name]))
            if lightning[type(module)]:
                stack.enter_context(_without_logs(attributes))
        for parameter in model.parameters():
            for name in _TENSOR_HOOKS:
                if getattr(parameter, name, None):
                    stack.enter_context(_without_hooks(parameter, name))
        yield


def is_lightning(module: nn.Module) -> bool:
    """Whether a module is a LightningModule, of whichever installed package."""
    return any(base.__name__ == "LightningModule" for base in type(module).__mro__)


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


@contextmanager
def _without_logs(attributes: dict[str, Any]) -> Iterator[None]:
    own = {name: attributes[name] for name in _LOGS if name in attributes}
    attributes.update(dict.fromkeys(_LOGS, _log_nothing))
    try:
        yield
    finally:
        for name in _LOGS:
            attributes.pop(name, None)
        attributes.update(own)


def _log_nothing(*args: object, **kwargs: object) -> None:
    """What is logged while a measurement runs is no metric of the training."""
