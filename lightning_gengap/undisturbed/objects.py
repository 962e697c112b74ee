"""Objects with attributes: plain ones and modules, compiled modules, classes, and functions."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from lightning_gengap.undisturbed.containers import restore_dict
from lightning_gengap.undisturbed.global_variables import global_variables, restore_variables
from lightning_gengap.undisturbed.kind import (
    Kind,
    NotKept,
    Shared,
    is_foreign,
    is_of_threads,
    is_users,
    nothing_to_restore,
    saved_parts,
)


class _Attributes(NamedTuple):
    """The class of an object, its attributes, and those that have slots."""

    cls: type
    held: dict[str, Any]
    slots: dict[str, Any]


def has_attributes(cls: type) -> bool:
    """Whether objects of this class have attributes of their own."""
    return bool(cls.__dictoffset__ or _slots(cls))


def object_kind(cls: type) -> Kind:
    """How objects of this class are kept: their attributes, and the class itself, which lazy modules exchange."""
    slots = _slots(cls)
    save, restore = functools.partial(_save_object, slots), functools.partial(_restore_object, slots)
    return Kind(save, restore, lambda saved: {**saved.held, **saved.slots} if saved.slots else saved.held)


def _save_object(names: Sequence[str], thing: Any) -> _Attributes:
    held = dict(getattr(thing, "__dict__", ()))
    slots = {name: getattr(thing, name) for name in names if hasattr(thing, name)}
    if not isinstance(thing, nn.Module) and any(
        is_of_threads(type(part)) for part in (*held.values(), *slots.values())
    ):
        raise Shared
    return _Attributes(type(thing), held, slots)


def _restore_object(names: Sequence[str], thing: Any, saved: _Attributes) -> None:
    if type(thing) is not saved.cls:
        object.__setattr__(thing, "__class__", saved.cls)
    if hasattr(thing, "__dict__"):
        restore_dict(thing.__dict__, saved.held)
    for name in names:
        if name not in saved.slots:
            if hasattr(thing, name):
                object.__delattr__(thing, name)
        elif getattr(thing, name, saved) is not saved.slots[name]:
            object.__setattr__(thing, name, saved.slots[name])


def _slots(cls: type) -> tuple[str, ...]:
    names: list[str] = []
    for base in cls.__mro__:
        own = vars(base).get("__slots__", ())
        for name in (own,) if isinstance(own, str) else own:
            private = name.startswith("__") and not name.endswith("__")
            names.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _save_script(module: Any) -> dict[str, Any]:
    names = {"training", *(name for name, _ in module.named_buffers(recurse=False))}
    concrete = getattr(module, "_concrete_type", None)
    names.update(() if concrete is None else concrete.get_attributes())
    return {name: getattr(module, name) for name in names if module._c.hasattr(name)} | dict(module.named_children())


def _restore_script(module: Any, saved: dict[str, Any]) -> None:
    for name, value in saved.items():
        if isinstance(value, nn.Module):
            continue
        now = getattr(module, name)
        changed = now is not value if isinstance(value, torch.Tensor) else repr(now) != repr(value)
        if changed:
            module._c.setattr(name, value)


SCRIPT = Kind(_save_script, _restore_script, saved_parts)  # TorchScript holds attributes outside of Python


def user_classes(cls: type) -> Iterator[type]:
    """The class and its bases that neither Python, torch nor Lightning define: their data may serve as counters."""
    return filter(is_users, cls.__mro__)


def _data_of_class(cls: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(cls).items()
        if isinstance(value, functools._lru_cache_wrapper)
        or not (name.startswith(("__", "_abc_")) or hasattr(type(value), "__get__") or isinstance(value, type))
    }


def _restore_class(cls: type, saved: dict[str, Any]) -> None:
    now = _data_of_class(cls)
    for name in now.keys() - saved.keys():
        delattr(cls, name)
    for name, value in saved.items():
        if now.get(name, saved) is not value:
            setattr(cls, name, value)


CLASS = Kind(_data_of_class, _restore_class, saved_parts)


class _Function(NamedTuple):
    """What a function holds itself, and the global variables that it names."""

    held: dict[str, Any]
    variables: dict[str, Any]


def _save_function(function: types.FunctionType) -> _Function:
    if is_foreign(function.__module__):
        raise NotKept("it is no code of the user's")
    names = (f"<{name}>" for name in function.__code__.co_freevars)
    closed_over = dict(zip(names, function.__closure__ or (), strict=True))
    others = {"defaults": function.__defaults__, "keywords": function.__kwdefaults__, "attributes": vars(function)}
    held = {**closed_over, **{name: value for name, value in others.items() if value}}
    return _Function(held, global_variables(function))


def _save_cell(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # it is empty
        return ()


def _restore_cell(cell: types.CellType, saved: tuple[Any, ...]) -> None:
    now = _save_cell(cell)
    if saved and not (now and now[0] is saved[0]):
        cell.cell_contents = saved[0]


FUNCTION = Kind(
    _save_function,
    lambda function, saved: restore_variables(function, saved.variables),
    lambda saved: {**saved.held, **saved.variables},
)

FUNCTIONS: tuple[tuple[type, Kind], ...] = (
    (types.FunctionType, FUNCTION),
    (types.MethodType, Kind(lambda own: (own.__self__, own.__func__), nothing_to_restore, saved_parts)),
    (functools.partial, Kind(lambda own: (own.func, own.args, own.keywords), nothing_to_restore, saved_parts)),
    (types.CellType, Kind(_save_cell, _restore_cell, saved_parts)),
)
