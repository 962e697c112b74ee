"""What a measurement would change for good, found on a copy of the model, so that the model itself stays whole."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gengap.undisturbed.guard import undisturbed
from lightning_gengap.undisturbed.places import bytes_of, memory_of
from lightning_gengap.undisturbed.random_streams import random_streams_kept
from lightning_gengap.undisturbed.snapshot import Snapshot
from lightning_gengap.undisturbed.tensors import MOST_COPIED

Run = Callable[[nn.Module], object]

_REGISTRIES = ("_modules", "_parameters", "_buffers")  # modules are named without them, as users name them


class UncopiedError(Exception):
    """A model of which no copy can be made."""


def find_lasting_changes(model: nn.Module, run: Run) -> list[str]:
    """Run a measurement on a guarded copy of `model`, and name what it leaves changed.

    Everything is compared that can be digested: tensors, arrays, numbers, containers, random generators, iterators and
    the positions of files. The model itself is only read. Models of more than 256 MiB are not copied, and not judged.

    Args:
        model: the model in training.
        run: what a measurement does with a model. An error that it raises says nothing about lasting changes.

    Returns:
        The names of what differs afterwards, sorted.

    Raises:
        UncopiedError: the model cannot be copied; the message names what prevents it.

    Example:
        >>> import itertools
        >>> class Counting(nn.Linear):
        ...     def forward(self, inputs):
        ...         next(self.calls)
        ...         return super().forward(inputs)
        >>> model = Counting(2, 2)
        >>> model.calls = itertools.count()
        >>> find_lasting_changes(model, lambda model: model(torch.zeros(1, 2)))
        ['calls']
    """
    reached = Snapshot(model, copies=False)
    arrays = (thing.nbytes for thing in reached.objects if isinstance(thing, np.ndarray))
    if sum(map(memory_of, reached.tensors)) + sum(arrays) > MOST_COPIED:
        return []
    with random_streams_kept():
        try:
            twin = copy.deepcopy(model, _shared(reached))
        except Exception as error:  # whatever an object of the user's raises
            raise UncopiedError(f"{_uncopied(model)} cannot be copied ({type(error).__name__}: {error})") from error
        before = digests(twin)
        try:
            with undisturbed(twin):
                run(twin)
        except Exception:  # the measurement itself will meet it, and say it
            pass
        after = digests(twin)
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def digests(model: nn.Module) -> dict[str, Any]:
    """What `model` reaches, by name; equal for equal content, whichever objects hold it."""
    return dict(_named(Snapshot(model, copies=False), model))


def _shared(reached: Snapshot) -> dict[int, Any]:
    """What a copy shares with the model (the Trainer, say), and what has to be copied in a way of its own."""
    modules = set(map(id, reached.modules))
    memo: dict[int, Any] = {id(thing): thing for thing in reached.of_others if id(thing) not in modules}
    for thing in reached.objects:
        if isinstance(thing, torch.Generator):
            memo[id(thing)] = torch.Generator(thing.device).set_state(thing.get_state())
    for tensor in reached.tensors:
        if not tensor.is_leaf or tensor.layout not in (torch.strided, torch.sparse_coo):  # torch refuses to copy it
            twin = tensor.detach().clone()
            memo[id(tensor)] = nn.Parameter(twin) if isinstance(tensor, nn.Parameter) else twin
    return memo


def _uncopied(model: nn.Module) -> str:
    """The name of the first attribute of a module that cannot be copied."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in _REGISTRIES or isinstance(value, Tensor):
                continue
            try:
                copy.deepcopy(value, _shared(Snapshot(value, copies=False)))
            except Exception:
                return f"{name}.{attribute}".removeprefix(".")
    return "the model"


def _named(snapshot: Snapshot, root: nn.Module) -> Iterator[tuple[str, Any]]:
    """A digest of every object by the name under which it is first reached."""
    named: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        name, thing = waiting.pop()
        if id(thing) in named:
            continue
        named.add(id(thing))
        if isinstance(thing, Tensor):
            yield name, _of_tensor(thing)
            continue
        parts = [item for held in snapshot.held_by(thing) for item in held.items()]
        if name.endswith("_hooks"):  # their keys count the hooks of the whole process
            parts = [(number, hook) for number, (_, hook) in enumerate(parts)]
        if not parts:
            yield name, _of_opaque(thing)
        for key, part in parts:
            path = name if key in _REGISTRIES else f"{name}.{key}".removeprefix(".")
            if snapshot.reaches(part):
                waiting.append((path, part))
            else:
                yield path, _of_value(part)
        yield f"{name}.", (type(thing).__name__, [str(key) for key, _ in parts])


def _of_tensor(tensor: Tensor) -> Any:
    try:
        return (tuple(tensor.shape), str(tensor.dtype), hash(bytes_of(tensor)))
    except Exception:  # a tensor without memory of its own
        return type(tensor).__name__


def _of_value(value: Any) -> Any:
    return repr(value) if isinstance(value, int | float | complex | str | bytes | type(None)) else type(value).__name__


def _of_opaque(thing: Any) -> Any:
    """Content of an object that holds no others: its numbers, its state, or its position."""
    for read in (_array, _state, _position, _place_of_iterator):
        try:
            return read(thing)
        except Exception:
            continue
    return type(thing).__name__


def _array(thing: Any) -> Any:
    if isinstance(thing, np.ndarray):
        return thing.shape, hash(thing.tobytes())
    return hash(bytes(memoryview(thing)))


def _state(thing: Any) -> Any:
    if isinstance(thing, torch.Generator):
        return hash(bytes(thing.get_state().tolist()))
    for read in ("getstate", "get_state"):
        if hasattr(type(thing), read):
            return repr(getattr(thing, read)())
    return repr(getattr(thing, "bit_generator", thing).state)


def _position(thing: Any) -> Any:
    return thing.tell()


def _place_of_iterator(thing: Any) -> Any:
    if not hasattr(type(thing), "__next__"):
        raise TypeError
    return repr(thing.__reduce__()) if " object at 0x" in repr(thing) else repr(thing)
