"""Nested contents: batches and outputs, whose tensors stand in mappings, sequences and dataclasses of any depth.

One walker serves all. PyTorch's own (`torch.utils._pytree`) is private, and takes for leaves what batches often are:
a `BatchEncoding` of Hugging Face, a subclass of `dict`, a dataclass.
"""

from __future__ import annotations

import copy
from collections import UserDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_gengap.errors import Undefined

INSEPARABLE = "the samples of a batch cannot be taken apart"


def flat_tensors(content: Any) -> list[Tensor]:
    """All tensors in `content`, in order."""
    if isinstance(content, Tensor):
        return [content]
    return [tensor for part in (_parts(content) or {}).values() for tensor in flat_tensors(part)]


def map_tensors(content: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`content` with every tensor replaced by what `change` makes of it; its containers are new."""
    return _map_leaves(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, content)


def exchange(content: Any, old: Tensor, new: Tensor) -> Any:
    """`content` with the tensor `new` wherever the tensor `old` was.

    Raises:
        Undefined: `old` is nowhere, so that `content` would be left as it was.
    """
    if not any(tensor is old for tensor in flat_tensors(content)):
        raise Undefined(f"the tensors of a {type(content).__name__} cannot be exchanged")
    return map_tensors(content, lambda tensor: new if tensor is old else tensor)


def handed_out(content: Any) -> Any:
    """`content` for one forward, which may change what it is given: containers and tensors of its own.

    A leaf that requires a gradient is handed out as a clone, through which the gradient flows.
    """
    return _own(content, Tensor.clone)


def with_own_containers(content: Any) -> Any:
    """`content` in containers of its own, for whoever may take parts out of them. The tensors are shared."""
    return _own(content, lambda tensor: tensor)


def _own(content: Any, tensors: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(content, Tensor):
        return tensors(content)
    parts = _parts(content)
    if parts is None:
        return _shallow(content) if hasattr(content, "__dict__") and not callable(content) else content
    owned = {key: _own(part, tensors) for key, part in parts.items()}
    if isinstance(content, dict | UserDict):  # with the attributes that a subclass may have
        same = _shallow(content)
        if same is not content:
            same.update(owned)
            return same
    rebuilt = _rebuilt(content, owned)
    return rebuilt if type(rebuilt) is type(content) else _shallow(content)


def _shallow(content: Any) -> Any:
    try:
        return copy.copy(content)
    except Exception:  # whatever a foreign object raises that cannot be copied
        return content


def copied(batch: Any) -> Any:
    """`batch` with every tensor cloned, so that later changes in place do not reach the copy."""
    return map_tensors(batch, lambda tensor: tensor.detach().clone())


def rows_of(content: Any, rows: Tensor, examples: int) -> Any:
    """`content` with every tensor that has the `examples` on its first axis reduced to `rows`.

    Raises:
        Undefined: no tensor has them there, or one cannot be reduced.
    """
    reductions = 0

    def reduced(tensor: Tensor) -> Tensor:
        nonlocal reductions
        if tensor.is_nested or not tensor.ndim or len(tensor) != examples:
            return tensor
        reductions += 1
        chosen = rows.to(tensor.device)
        return tensor[chosen] if tensor.layout == torch.strided else tensor.index_select(0, chosen)

    try:
        taken = map_tensors(content, reduced)
    except (RuntimeError, NotImplementedError) as error:  # layouts that cannot be indexed
        raise Undefined(INSEPARABLE) from error
    if not reductions:
        raise Undefined(INSEPARABLE)
    return taken


def joined(first: Any, second: Any, examples: int, more: int) -> Any:
    """Two contents of equal structure in one, with `examples` and `more` on the first axes of their tensors.

    Raises:
        ValueError, RuntimeError: they differ in anything but their examples.
    """

    def join(one: Any, other: Any) -> Any:
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            if one.ndim and other.ndim and len(one) == examples and len(other) == more:
                return torch.cat([one, other])
            same = one.shape == other.shape and torch.equal(one, other)
        else:
            same = type(one) is type(other) and one == other
        if not same:
            raise ValueError("contents that differ beyond their examples")
        return one

    return _map_leaves(join, first, second)


def _map_leaves(change: Callable[..., Any], *contents: Any) -> Any:
    """The first content with `change(leaf of the first, leaf of the second, ...)` at every leaf."""
    parts = [held for content in contents if (held := _parts(content)) is not None]
    if not parts:
        return change(*contents)
    first, *others = parts
    if len(parts) != len(contents) or any(other.keys() != first.keys() for other in others):
        raise ValueError("contents of different structure")
    changed = {key: _map_leaves(change, part, *(other[key] for other in others)) for key, part in first.items()}
    return _rebuilt(contents[0], changed)


def _parts(content: Any) -> dict[Any, Any] | None:
    """What a container holds, by key, position or field; None for a leaf."""
    if isinstance(content, Mapping):
        return dict(content.items())
    if isinstance(content, list | tuple):
        return dict(enumerate(content))
    if is_dataclass(content) and not isinstance(content, type):
        return {field.name: getattr(content, field.name) for field in fields(content)}
    return None


def _rebuilt(content: Any, parts: dict[Any, Any]) -> Any:
    """A new container like `content` that holds `parts`; a mapping that its type cannot be built from is a dict."""
    if isinstance(content, list | tuple):
        values = list(parts.values())
        return type(content)(*values) if hasattr(content, "_fields") else type(content)(values)
    if isinstance(content, Mapping):
        default = (content.default_factory,) if isinstance(content, defaultdict) else ()
        try:
            return type(content)(*default, parts)  # type: ignore[call-arg]
        except Exception:  # whatever a foreign constructor raises
            return parts
    same = copy.copy(content)
    for name, part in parts.items():
        object.__setattr__(same, name, part)  # a frozen dataclass too
    return same
