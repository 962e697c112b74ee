"""Derivatives of every sample on its own, as many samples in one pass as memory allows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from lightning_gengap.derivatives.memory import FREE, require_room
from lightning_gengap.errors import Undefined
from lightning_gengap.samples.nested import INSEPARABLE, flat_tensors, map_tensors

MOST_NUMBERS = 2**26  # in what the samples of one pass yield


def per_sample(
    function: Callable[..., Any], content: Any, examples: int, numbers: int, rows: tuple[Tensor, ...] = ()
) -> Iterator[Any]:
    """What `function` gives for every sample of one batch content, pass by pass.

    Args:
        function: called as `function(alone, *own)`, with a batch content of one sample and that sample's part of
            `rows`. It may differentiate, and gives tensors in tuples, lists and dictionaries.
        content: a batch content.
        examples: how many samples it has.
        numbers: how many numbers one sample's result has, for the size of a pass.
        rows: tensors with the examples on their first axis.

    Yields:
        The results of consecutive samples, with the samples on the first axis of every tensor.

    Raises:
        Undefined: no tensor of the content has the samples on its first axis, as where an object hides them.
    """
    pieces = [piece for piece in flat_tensors(content) if piece.ndim and len(piece) == examples]
    if not pieces:
        raise Undefined(INSEPARABLE)

    def of_one(entries: list[Tensor], own: tuple[Tensor, ...]) -> Any:
        single = {id(piece): entry[None] for piece, entry in zip(pieces, entries, strict=True)}
        return function(map_tensors(content, lambda tensor: single.get(id(tensor), tensor)), *own)

    mapped = vmap(of_one, randomness="error")
    size = max(1, MOST_NUMBERS // max(1, numbers))
    for start in range(0, examples, size):
        part = slice(start, start + size)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # layers without a batching rule
            found = mapped([piece[part] for piece in pieces], tuple(row[part] for row in rows))
        yield found


def require_room_for(weights: Mapping[str, Tensor], numbers: int, examples: int, sums: int) -> None:
    """Raise `Undefined` where one pass and sums over the samples do not fit into memory.

    Args:
        weights: what is differentiated by.
        numbers: as for `per_sample`.
        examples: the samples of the largest batch.
        sums: how many float64 vectors of all weights are held.
    """
    length, size = (sum(value.numel() for value in weights.values()), max(v.element_size() for v in weights.values()))
    if all(value.device.type == "cpu" for value in weights.values()):
        wanted = 8 * sums * length + 2 * size * max(min(MOST_NUMBERS, numbers * examples), numbers)
        require_room(wanted, f"gradients by {length} weights", FREE)


@contextmanager
def defined_where_it_succeeds() -> Iterator[None]:
    """Turn the failure of a per-sample derivative inside the block into `Undefined`."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        first_line = str(error).partition("\n")[0]
        raise Undefined(f"per-sample derivatives fail ({first_line})") from error


def zeros_for_sums(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros like the weights, to add up many samples in: in float64 where the device has it."""
    return {name: torch.zeros_like(value, dtype=precise(value.device)) for name, value in weights.items()}


def precise(device: torch.device) -> torch.dtype:
    """The most precise real type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64
