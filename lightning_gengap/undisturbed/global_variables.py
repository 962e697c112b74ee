"""Global variables that functions of the user's name: counters, caches, singletons, and the functions that they call.

So are those of other modules of the user's that they name, as in `state.calls += 1` after `import state`.

Those of installed packages are left alone, because they are many, and large data are not looked at.
"""

from __future__ import annotations

import functools
import random
import sysconfig
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from lightning_gengap.undisturbed.kind import is_foreign, is_looked_into, is_users

MOST_ENTRIES = 1_000  # of a global container that is kept
MOST_BYTES = 2**20  # of a global tensor or array

_INSTALLED = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib")})
_ENTRIES = ("forward", "__call__", "__getattr__", "transfer_batch_to_device")
_CALLED_FIRST = frozenset({*_ENTRIES, "on_before_batch_transfer", "on_after_batch_transfer"})
_KEPT = (int, float, str, type(None), types.FunctionType, nn.Module, torch.Generator, random.Random)
_STREAMS = (np.random.Generator, np.random.RandomState)


def global_variables(function: types.FunctionType) -> dict[str, Any]:
    """The variables that the code of a function names and that may change, by name: of its module, or of another."""
    if not is_users_own(function):
        return {}
    variables, names = function.__globals__, set(_names(function.__code__))
    named = {name: variables[name] for name in names if name in variables}
    for name, module in list(named.items()):
        if isinstance(module, types.ModuleType) and _is_users_module(module):
            held = vars(module)
            named |= {f"{name}.{own}": held[own] for own in names if own in held}
    return {name: value for name, value in named.items() if _may_change(value)}


def restore_variables(function: types.FunctionType, saved: dict[str, Any]) -> None:
    """Give the variables their objects of before; what these hold is kept by itself."""
    for path, value in saved.items():
        *module, name = path.split(".")
        variables = vars(function.__globals__[module[0]]) if module else function.__globals__
        if variables.get(name, saved) is not value:
            variables[name] = value


def called_functions(cls: type) -> dict[str, types.FunctionType]:
    """The functions of a class that a measurement may call: of a module, its forward, and whatever that names."""
    own: dict[str, list[types.FunctionType]] = {}
    for base in filter(is_users, cls.__mro__):
        for name, value in list(vars(base).items()):
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if isinstance(function, types.FunctionType) and is_users_own(function):
                own.setdefault(name, []).append(function)
    waiting = [name for name in own if name in _CALLED_FIRST or not issubclass(cls, nn.Module)]
    found: dict[str, types.FunctionType] = {}
    while waiting:
        name = waiting.pop()
        if name not in found and name in own:
            found |= {name if not place else f"{name} {place}": each for place, each in enumerate(own[name])}
            waiting += [called for each in own[name] for called in _names(each.__code__)]
    return found


def is_users_own(function: types.FunctionType) -> bool:
    """Whether a function is code of the user's, and of no installed package."""
    return not is_foreign(function.__module__) and not function.__code__.co_filename.startswith(_INSTALLED)


def _is_users_module(module: types.ModuleType) -> bool:
    path = getattr(module, "__file__", None) or _INSTALLED[0]  # without a file it is a part of Python
    return not is_foreign(module.__name__) and not path.startswith(_INSTALLED)


def _names(code: types.CodeType) -> Iterator[str]:
    """All names in a code and the codes inside it; those of attributes too, which no variable need have."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _names(part)


def _may_change(value: Any) -> bool:
    if isinstance(value, _KEPT + _STREAMS):
        return not isinstance(value, types.FunctionType) or is_users_own(value)
    if isinstance(value, functools._lru_cache_wrapper):
        return isinstance(value.__wrapped__, types.FunctionType) and is_users_own(value.__wrapped__)
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.nbytes <= MOST_BYTES
    if isinstance(value, dict | list | set | deque | bytearray):
        return len(value) <= MOST_ENTRIES
    if isinstance(value, type):
        return is_users(value)
    return is_looked_into(type(value))
