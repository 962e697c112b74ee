"""A copy of a data set to read from, so that the user's own keeps no trace of our reads. It shares the large arrays."""

from __future__ import annotations

import copy
import functools
import io
import mmap
import sqlite3
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gengap.samples.copied_objects import (
    LARGE,
    MOST_ENTRIES,
    disarm,
    generator_copy,
    local_copy,
    object_copy,
    parts_of,
)
from lightning_gengap.samples.put_back import CONTAINERS, PutBack
from lightning_gengap.samples.rewinding import opened_again

MOST_BYTES = 8 * LARGE  # that all copied arrays may take together
MOST_OBJECTS = 100_000  # that are looked at; then containers are copied without their entries

_HARMLESS = ("lock", "Lock", "RLock", "SemLock", "Semaphore", "BoundedSemaphore")  # left as they were found


@contextmanager
def private_copy(content: Any, keep: Iterable[Any] = ()) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """A copy of `content` for a block, and the kinds of the objects in it that are the user's own after all.

    Objects are copied as `copy.deepcopy` does it, with these differences. Tensors and arrays of 1 MiB or more are
    shared, and any once 8 MiB are copied. So are the entries of containers with more than 10,000. What cannot be
    copied is shared alone: the rest is copied. A file that is open for reading is opened once more, at the same
    offset; where that fails, its offset is restored after the block.

    Args:
        content: a data set, with whatever else reads it.
        keep: objects that are not copied wherever they are found.
    """
    memo = {id(each): each for each in keep}
    copier = Copier(memo, PutBack(memo))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            copied = copier(content)
        except RecursionError:  # chains of objects that are longer than Python's stack
            copied, copier.shared = content, [type(content[0] if isinstance(content, tuple) else content)]
    try:
        kinds = dict.fromkeys(kind.__qualname__ for kind in copier.shared if kind.__name__ not in _HARMLESS)
        yield copied, tuple(kinds)
    finally:
        copier.let_go()


@dataclass
class Copier:
    """Copies objects once each.

    Attributes:
        memo: the copies by the identity of their originals, in the form of `copy.deepcopy`.
        put_back: puts back what the copy shares.
        left: bytes that may still be copied.
        shared: the types of the objects that could not be copied.
        opened: files that were opened once more.
        made: the new objects, also those whose making failed later.
        looked_at: how many objects.
        of_class: what each class holds that may change.
        alive: the originals, some of which exist for the copy alone: their identities must not be given away.
    """

    memo: dict[int, Any]
    put_back: PutBack
    left: int = MOST_BYTES
    shared: list[type] = field(default_factory=list)
    opened: list[Any] = field(default_factory=list)
    alive: list[Any] = field(default_factory=list)
    of_class: dict[type, list[tuple[str, Any]]] = field(default_factory=dict)
    made: list[Any] = field(default_factory=list)
    looked_at: int = 0

    def __call__(self, x: Any) -> Any:
        """The copy of an object; the object itself where it need not or cannot be copied."""
        known = self.memo.get(id(x), self)
        if known is not self:
            return known
        if x is None or type(x) in _ATOMS or isinstance(x, _AS_IS):
            return x
        self.looked_at += 1
        try:
            made = self._copy(x)
        except RecursionError:
            raise
        except Exception:  # whatever says that it cannot be copied
            self.shared.append(type(x))
            made = x
        self.memo[id(x)] = made
        self.alive.append(x)
        return made

    def let_go(self) -> None:
        """Put back what is shared, and close what was opened, also what the copy has opened while it was read."""
        self.put_back()
        known = {id(each) for each in (*self.alive, *self.memo.values())} - {id(file) for file in self.opened}
        copies = [made for original, made in self.memo.items() if original != id(made)]
        found = [part for made in copies for part in parts_of(made) if isinstance(part, _CLOSED)]
        for made in (*copies, *self.made):
            if hasattr(type(made), "__del__"):
                disarm(made)
        for handle in (*self.opened, *found):
            if id(handle) not in known:
                handle.close()

    def _copy(self, x: Any) -> Any:
        if type(x) in CONTAINERS:
            return self._container(x)
        if isinstance(x, Tensor):
            return self.sized(x, x.numel() * x.element_size(), _copy_tensor)
        if isinstance(x, np.ndarray):
            return self._array(x)
        if isinstance(x, io.IOBase) and not isinstance(x, io.BytesIO | io.StringIO):
            return self._file(x)
        if isinstance(x, mmap.mmap):
            return self._memory_map(x)
        for kind, how in _HOW:
            if isinstance(x, kind):
                return how(self, x)
        return object_copy(self, x)

    def sized(self, x: Any, size: int, how: Callable[[Any], Any]) -> Any:
        """A copy of what is small; what is large is shared, and so is everything once enough is copied."""
        if size >= LARGE or size > self.left:
            return x
        self.left -= size
        return how(x)

    def _array(self, x: Any) -> Any:
        if isinstance(x, np.memmap) and x.mode != "r+":  # it cannot be written, or is written to memory alone
            return x
        made = self.sized(x, x.nbytes, lambda array: array.copy())
        if made is not x and x.dtype == object and x.size <= MOST_ENTRIES:
            self.memo[id(x)] = made
            for place, entry in enumerate(x.flat):
                made.flat[place] = self(entry)
        return made

    def _file(self, x: Any) -> Any:
        again = opened_again(x)
        if again is None:
            self.put_back.steps.append(partial(x.seek, x.tell()))
            if not x.readable():  # what is written to it stays there
                self.shared.append(type(x))
            return x
        made, handle = again
        self.opened.append(handle)
        return made

    def _memory_map(self, x: mmap.mmap) -> mmap.mmap:
        """The map itself, whose position is put back; what is written to it stays there."""
        self.put_back.steps.append(partial(x.seek, x.tell()))
        self.shared.append(type(x))
        return x

    def _container(self, x: Any) -> Any:
        """A list, set, dict or deque; its entries are shared where there are very many."""
        if self.has_many(x):
            return copy.copy(x)
        made: Any = [] if type(x) is list else {} if type(x) is dict else copy.copy(x)
        made.clear()
        self.memo[id(x)] = made
        if isinstance(x, dict):
            made.update((self(key), self(value)) for key, value in list(x.items()))
        elif isinstance(x, set):
            made.update(self(entry) for entry in list(x))
        else:
            made.extend(self(entry) for entry in list(x))
        return made

    def has_many(self, x: Any) -> bool:
        """Whether only the container is copied, because there are too many entries."""
        return len(x) > MOST_ENTRIES or self.looked_at > MOST_OBJECTS

    def _tuple(self, x: tuple[Any, ...]) -> Any:
        if self.has_many(x):
            return x
        entries = [self(entry) for entry in x]
        if all(new is old for new, old in zip(entries, x, strict=True)):
            return x
        return type(x)(*entries) if hasattr(x, "_fields") else type(x)(entries)

    def _reference(self, x: Any) -> Any:
        """A weak reference to the copy, which lives as long as this copier."""
        referent = x()
        if referent is None or type(x) is not weakref.ref:
            return x
        made = self(referent)
        return x if made is referent else weakref.ref(made)

    def _cached(self, x: Any) -> Any:
        """A cache around the copy of what it caches, without the entries, which cannot be read."""
        made = self(x.__wrapped__)
        return x if made is x.__wrapped__ else functools.lru_cache(**x.cache_parameters())(made)

    def _function(self, x: types.FunctionType) -> Any:
        """The function itself, or where it holds something that was copied, one that holds the copy."""
        self.put_back.watch(x)
        if not x.__closure__ and not x.__defaults__:
            return x
        cells = [self.memo.setdefault(id(cell), types.CellType()) for cell in x.__closure__ or ()]
        made = types.FunctionType(x.__code__, x.__globals__, x.__name__, None, tuple(cells) or None)
        self.memo[id(x)] = made
        made.__defaults__, made.__kwdefaults__ = self(x.__defaults__), x.__kwdefaults__
        made.__dict__.update(x.__dict__)
        changed = made.__defaults__ is not x.__defaults__
        for cell, new in zip(x.__closure__ or (), cells, strict=True):
            if _is_filled(cell):
                new.cell_contents = self(cell.cell_contents)
                kept = any(new.cell_contents is same for same in (cell.cell_contents, made))
                changed = changed or not kept or type(new.cell_contents) in _ATOMS  # a number may be counted on
        return made if changed else x


def _copy_tensor(x: Tensor) -> Any:
    return copy.deepcopy(x) if x.is_leaf else x.detach().clone()


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


_ATOMS = {bool, int, float, complex, str, bytes, frozenset, range, slice, type(Ellipsis), type(NotImplemented)}
_ATOMS |= {torch.dtype, torch.device, torch.Size, torch.layout, property}
_AS_IS = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, np.generic, np.dtype)
_CLOSED = (io.IOBase, sqlite3.Connection)
_HOW: tuple[tuple[Any, Callable[[Copier, Any], Any]], ...] = (
    (tuple, Copier._tuple),
    (torch.Generator, generator_copy),
    (types.MethodType, lambda copier, x: types.MethodType(x.__func__, copier(x.__self__))),
    (weakref.ref, Copier._reference),
    (functools._lru_cache_wrapper, Copier._cached),
    (types.FunctionType, Copier._function),
    (threading.local, local_copy),
    (bytearray, lambda copier, x: copier.sized(x, len(x), bytearray)),
)
