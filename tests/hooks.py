"""How many hooks are registered, on a model and for all modules of the process."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as torch_module

_OF_ALL = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")
_OF_ONE = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


def hooks(model: nn.Module) -> int:
    own = sum(len(getattr(part, name)) for part in model.modules() for name in _OF_ONE)
    return own + sum(len(getattr(torch_module, name)) for name in _OF_ALL)
