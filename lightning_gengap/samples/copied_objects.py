"""How an object of any class is copied: by what `__reduce_ex__` tells of it, or in its own way."""

from __future__ import annotations

import copy
import copyreg
import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lightning_gengap.samples.put_back import CONTAINERS
from lightning_gengap.samples.rewinding import GENERATORS

if TYPE_CHECKING:
    from lightning_gengap.samples.dataset_copy import Copier

LARGE = 2**20  # bytes, from which on contents are shared
MOST_ENTRIES = 10_000  # of a container whose entries are copied as well


def object_copy(copier: Copier, x: Any) -> Any:
    """A copy as `copy.deepcopy` would make it; contents that are only read, and what is large, are shared."""
    kind = type(x)
    if str(kind.__module__).partition(".")[0] in ("PIL", "pyarrow"):  # contents that are only read
        return x
    size = sys.getsizeof(x)
    if size >= LARGE:
        return x
    if hasattr(kind, "__deepcopy__"):
        for part in getattr(x, "__dict__", {}).values():
            if isinstance(part, Tensor | np.ndarray) and part.nbytes >= LARGE:
                copier.memo[id(part)] = part
        return copier.sized(x, size, lambda each: copy.deepcopy(each, copier.memo))
    reduce = copyreg.dispatch_table.get(kind)
    reduced = x.__reduce_ex__(4) if reduce is None else reduce(x)
    return x if isinstance(reduced, str) else _rebuilt(copier, x, *reduced)


def local_copy(copier: Copier, x: Any) -> Any:
    """The data that a thread holds for itself."""
    made = type(x)()
    copier.memo[id(x)] = made
    made.__dict__.update({name: copier(value) for name, value in x.__dict__.items()})
    return made


def generator_copy(copier: Copier, x: torch.Generator) -> torch.Generator:
    """A random stream that stands where the other does."""
    made = torch.Generator(device=x.device)
    made.set_state(x.get_state())
    return made


def _rebuilt(
    copier: Copier,
    x: Any,
    function: Any,
    arguments: Any,
    state: Any = None,
    items: Any = None,
    pairs: Any = None,
    *_: Any,
) -> Any:
    """An object from what `__reduce_ex__` tells of it."""
    if function is not copyreg.__newobj__:  # type: ignore[attr-defined]  # contents of C types are parts of their own
        size = sum(sys.getsizeof(part) for part in arguments)
        if size > copier.left:
            return x
        copier.left -= size
    made = function(*(copier(argument) for argument in arguments))
    copier.memo[id(x)] = made
    copier.made.append(made)
    if state is not None:
        _set_state(made, copier(state))
    _add_class_attributes(copier, made)
    few = (items is None and pairs is None) or not copier.has_many(x)
    for item in items or ():
        made.append(copier(item) if few else item)
    for key, value in pairs or ():
        made[copier(key) if few else key] = copier(value) if few else value
    return made


def _add_class_attributes(copier: Copier, made: Any) -> None:
    """Give the copy caches and generators of its own where its class holds them; watch those of its methods."""
    attributes: Any = getattr(made, "__dict__", None)
    if not isinstance(attributes, dict):
        return
    kind = type(made)
    copier.put_back.watch_class(kind)
    if kind not in copier.of_class:
        held = [(name, value) for each in kind.__mro__ for name, value in list(vars(each).items())]
        for _, value in held:
            if isinstance(value, types.FunctionType):
                copier.put_back.watch(value)
        copier.of_class[kind] = [(name, value) for name, value in held if _may_change(name, value)]
    for name, value in copier.of_class[kind]:
        if name not in attributes:
            attributes[name] = copier(value)


def _may_change(name: str, value: Any) -> bool:
    kinds = (*GENERATORS, Tensor, np.ndarray)
    return not name.startswith("__") and (type(value) in CONTAINERS or isinstance(value, kinds))


def _set_state(made: Any, state: Any) -> None:
    if hasattr(type(made), "__setstate__"):  # not `made`, whose `__getattr__` may need what it does not have yet
        made.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        made.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(made, name, value)


def disarm(made: Any) -> None:
    """Let no `__del__` of a copy close what it shares with the original."""
    kind = type(made)
    try:
        made.__class__ = type(kind.__name__, (kind,), {"__del__": lambda self: None, "__slots__": ()})
    except TypeError:  # a class that cannot be derived from: its `__del__` will find nothing
        getattr(made, "__dict__", {}).clear()


def parts_of(made: Any) -> list[Any]:
    """What stands directly in an object or container."""
    if type(made) in CONTAINERS:
        return list(made.values() if isinstance(made, dict) else made) if len(made) <= MOST_ENTRIES else []
    held = getattr(made, "__dict__", None)
    return list(held.values()) if isinstance(held, dict) else []
