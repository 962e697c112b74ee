"""Samples of a probe drawn by its seed, in chunks of nested contents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_gengap.network.probe import Probe

CHUNK = 256


def subsample(probe: Probe, most: int, chunk: int = CHUNK) -> tuple[list[Any], Tensor, tuple[int, ...]]:
    """At most `most` samples of the probe: batch contents, class indices and sizes; the same for the same seed.

    Drawn at random, never the first ones: data may come sorted by class. Put together to chunks of up to `chunk`
    where their shapes allow, for each chunk is linearised on its own; batches that are larger are divided only where
    memory is short, which a `chunk` below `CHUNK` says.
    """
    total = len(probe.targets)
    chosen = torch.arange(total)
    if total > most:
        generator = torch.Generator().manual_seed(probe.seed)
        chosen = torch.randperm(total, generator=generator)[:most].sort().values
    contents: list[Any] = []
    sizes: list[int] = []
    start = 0
    for batch in probe.batches:
        count = len(batch.targets)
        rows = chosen[(chosen >= start) & (chosen < start + count)] - start
        start += count
        if not len(rows):
            continue
        for part in rows.split(chunk) if chunk < CHUNK else (rows,):
            content = batch.content if len(part) == count else rows_of(batch.content, part, count)
            if sizes and sizes[-1] + len(part) <= chunk:
                try:
                    contents[-1] = joined(contents[-1], content, sizes[-1], len(part))
                    sizes[-1] += len(part)
                    continue
                except (RuntimeError, TypeError, ValueError, KeyError):  # ragged contents stay apart
                    pass
            contents.append(content)
            sizes.append(len(part))
    return contents, probe.targets[chosen], tuple(sizes)


def joined(first: Any, second: Any, examples: int, more: int) -> Any:
    """Two nested contents of equal structure in one: tensors with the examples on their first axis put together.

    Raises:
        ValueError: anything else differs between them.
    """
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.ndim and second.ndim and len(first) == examples and len(second) == more:
            return torch.cat([first, second])
        if first.shape == second.shape and torch.equal(first, second):
            return first
    elif isinstance(first, Mapping) and first.keys() == second.keys():
        return {key: joined(first[key], second[key], examples, more) for key in first}
    elif isinstance(first, list | tuple) and len(first) == len(second):
        parts = [joined(one, other, examples, more) for one, other in zip(first, second, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    elif not isinstance(first, Tensor) and type(first) is type(second) and first == second:
        return first
    raise ValueError("contents that differ beyond their examples")


def rows_of(content: Any, rows: Tensor, examples: int) -> Any:
    """Nested `content` with every tensor that has the examples on its first axis reduced to `rows`."""
    if isinstance(content, Tensor):
        return content[rows.to(content.device)] if content.ndim and len(content) == examples else content
    if isinstance(content, Mapping):
        return {key: rows_of(value, rows, examples) for key, value in content.items()}
    if isinstance(content, tuple) and hasattr(content, "_fields"):
        return type(content)(*(rows_of(value, rows, examples) for value in content))
    if isinstance(content, list | tuple):
        return type(content)(rows_of(value, rows, examples) for value in content)
    return content
