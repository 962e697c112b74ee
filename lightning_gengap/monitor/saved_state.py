"""What a checkpoint keeps: tensors and primitives, and objects built of them again, all or none. No Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

FORMAT = 4


class StateError(ValueError):
    """A saved state that cannot be taken over: the reason why."""


def to_primitives(value: Any) -> Any:
    """Containers and dataclasses as dictionaries and lists; what has a `state()` says itself what is kept."""
    if hasattr(value, "state"):
        return value.state()
    if is_dataclass(value):
        return {field.name: to_primitives(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_primitives(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_primitives(part) for part in value]
    return value


def from_primitives(owner: Any, name: str, saved: Mapping[str, Any]) -> Any:
    """The attribute of `owner` of this name, as it was when `to_primitives` was `saved[name]`.

    Raises:
        StateError: it is missing, incomplete or of another type.
    """
    current = getattr(owner, name)
    if name not in saved:
        raise StateError(f"{name} is missing")
    state = saved[name]
    if hasattr(current, "restored"):
        try:
            return current.restored(state)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StateError(f"{name} is damaged") from error
    if hasattr(current, "state"):
        hints = get_type_hints(type(current))
        if not isinstance(state, Mapping) or state.keys() != current.state().keys():
            raise StateError(f"{name} is damaged")
        return replace(current, **{part: _built(value, hints[part], f"{name}.{part}") for part, value in state.items()})
    return _built(state, get_type_hints(type(owner))[name], name)


def _built(value: Any, hint: Any, name: str) -> Any:
    """`value` as an object of this type."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        for part in parts:
            try:
                return _built(value, part, name)
            except StateError:
                continue
    elif kind is Literal and value in parts:
        return value
    elif kind is list and isinstance(value, list):
        return [_built(part, parts[0], name) for part in value]
    elif kind in (dict, Mapping) and isinstance(value, Mapping):
        return {_built(key, parts[0], name): _built(part, parts[1], name) for key, part in value.items()}
    elif is_dataclass(hint) and isinstance(value, Mapping):
        kept: Any = hint
        hints = {field.name: get_type_hints(kept)[field.name] for field in fields(kept)}
        if value.keys() == hints.keys():
            return kept(**{part: _built(value[part], of, f"{name}.{part}") for part, of in hints.items()})
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif (hint is int and isinstance(value, int) and not isinstance(value, bool)) or hint is Any:
        return value
    elif hint is None or hint is NoneType:
        if value is None:
            return None
    elif kind is None and hint not in (int, float) and not is_dataclass(hint) and isinstance(value, hint):
        return value
    raise StateError(f"{name} is damaged")
