"""Nested contents: batches and outputs, whose tensors stand in mappings, sequences and dataclasses of any depth.

One walker serves all. PyTorch's own (`torch.utils._pytree`) is private, and takes for leaves what batches often are:
a `BatchEncoding` of Hugging Face, a subclass of `dict`, a dataclass.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def flat_tensors(content: Any) -> list[Tensor]:
    """All tensors in `content`, in order."""
    if isinstance(content, Tensor):
        return [content]
    return [tensor for part in (_parts(content) or {}).values() for tensor in flat_tensors(part)]


def map_tensors(content: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`content` with every tensor replaced by what `change` makes of it; its containers are new."""
    return _map_leaves(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, content)


def exchange(content: Any, old: Tensor, new: Tensor) -> Any:
    """`content` with the tensor `new` wherever the tensor `old` was."""
    return map_tensors(content, lambda tensor: new if tensor is old else tensor)


def copied(batch: Any) -> Any:
    """`batch` with every tensor cloned, so that later changes in place do not reach the copy."""
    return map_tensors(batch, lambda tensor: tensor.detach().clone())


def rows_of(content: Any, rows: Tensor, examples: int) -> Any:
    """`content` with every tensor that has the `examples` on its first axis reduced to `rows`."""

    def reduced(tensor: Tensor) -> Tensor:
        return tensor[rows.to(tensor.device)] if tensor.ndim and len(tensor) == examples else tensor

    return map_tensors(content, reduced)


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
