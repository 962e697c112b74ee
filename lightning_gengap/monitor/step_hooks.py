"""Hooks on the modules of a network while its training step runs, of which the step itself notices nothing.

They are global hooks of torch. A module that the step copies, pickles or scripts has none of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import _get_current_dispatch_mode

Before = Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any]], None]
After = Callable[[str, nn.Module, Any], None]


def hook_into(
    modules: Mapping[str, nn.Module], after: After, failed: Callable[[], None], before: Before | None = None
) -> list[Any]:
    """Call `before` and `after` around each call of these modules, and return the handles that end it.

    Calls that are traced, compiled or transformed are left out: their tensors are no results of the step, and whatever
    is done with them would become a part of the trace. TorchScript takes no hooks.

    Args:
        modules: by name.
        after: gets the name, the module and its output, before hooks of the user's have changed that.
        failed: called instead of raising, where one of the two raises.
        before: gets the name, the module and its arguments.
    """
    names = {id(module): name for name, module in modules.items() if not isinstance(module, torch.jit.ScriptModule)}

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling():
            return
        if before is not None and id(module) in names and not _is_transformed():
            try:
                # A global hook is not given the named arguments: they stand in the frame that calls it.
                before(names[id(module)], module, args, sys._getframe(1).f_locals["kwargs"])
            except Exception:
                failed()

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        if id(module) in names and not _is_transformed():
            try:
                after(names[id(module)], module, output)
            except Exception:
                failed()

    if not names:
        return []
    entered = [] if before is None else [register_module_forward_pre_hook(enter)]
    return [*entered, register_module_forward_hook(leave)]


def _is_transformed() -> bool:
    """Whether a call is recorded by a tracer, runs inside `vmap` or `grad`, or is watched by a dispatch mode."""
    if torch._C._is_tracing() or _get_current_dispatch_mode() is not None:
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None
