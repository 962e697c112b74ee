"""A copy of a data set to read from, so that the user's own keeps no trace of our reads. It shares the large arrays."""

from __future__ import annotations

import copy
import copyreg
import functools
import io
import sqlite3
import sys
import threading
import types
import warnings
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gengap.samples.rewinding import GENERATORS, opened_again, rewinding
from lightning_gengap.undisturbed import global_variables, restore_variables
from lightning_gengap.undisturbed.kinds import kinds_of
from lightning_gengap.undisturbed.objects import CLASS, user_classes

LARGE = 2**20  # bytes, from which on an array is shared
MOST_BYTES = 8 * LARGE  # that all copied arrays may take together
MOST_ENTRIES = 10_000  # of a container whose entries are copied as well
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
    copier = _Copier({id(each): each for each in keep})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            copied = copier(content)
        except RecursionError:  # chains of objects that are longer than Python's stack
            copied, copier.shared = content, [type(content)]
    try:
        kinds = dict.fromkeys(kind.__qualname__ for kind in copier.shared if kind.__name__ not in _HARMLESS)
        yield copied, tuple(kinds)
    finally:
        copier.let_go()


@dataclass
class _Copier:
    """Copies objects once each.

    Attributes:
        memo: the copies by the identity of their originals, in the form of `copy.deepcopy`.
        left: bytes that may still be copied.
        shared: the types of the objects that could not be copied.
        opened: files that were opened once more.
        rewind: what puts shared files and generators back to where they stood.
        made: the new objects, also those whose making failed later.
        watched: functions, classes and global objects that are put back, by identity.
        looked_at: how many objects.
        of_class: what each class holds that may change.
        alive: the originals, some of which exist for the copy alone: their identities must not be given away.
    """

    memo: dict[int, Any]
    left: int = MOST_BYTES
    shared: list[type] = field(default_factory=list)
    opened: list[Any] = field(default_factory=list)
    rewind: list[Callable[[], Any]] = field(default_factory=list)
    alive: list[Any] = field(default_factory=list)
    of_class: dict[type, list[tuple[str, Any]]] = field(default_factory=dict)
    made: list[Any] = field(default_factory=list)
    watched: dict[int, Any] = field(default_factory=dict)
    looked_at: int = 0

    def __call__(self, x: Any) -> Any:
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
        for rewind in self.rewind:
            rewind()
        known = {id(each) for each in (*self.alive, *self.memo.values())} - {id(file) for file in self.opened}
        copies = [made for original, made in self.memo.items() if original != id(made)]
        found = [part for made in copies for part in _parts(made) if isinstance(part, _CLOSED)]
        for made in (*copies, *self.made):
            if hasattr(type(made), "__del__"):
                _disarm(made)
        for handle in (*self.opened, *found):
            if id(handle) not in known:
                handle.close()

    def _copy(self, x: Any) -> Any:
        if type(x) in _CONTAINERS:
            return self._container(x)
        if isinstance(x, Tensor):
            return self._sized(x, x.numel() * x.element_size(), _copy_tensor)
        if isinstance(x, np.ndarray):
            return self._array(x)
        if isinstance(x, io.IOBase) and not isinstance(x, io.BytesIO | io.StringIO):
            return self._file(x)
        for kind, how in _HOW:
            if isinstance(x, kind):
                return how(self, x)
        return self._object(x)

    def _sized(self, x: Any, size: int, how: Callable[[Any], Any]) -> Any:
        """A copy of what is small; what is large is shared, and so is everything once enough is copied."""
        if size >= LARGE or size > self.left:
            return x
        self.left -= size
        return how(x)

    def _array(self, x: Any) -> Any:
        if isinstance(x, np.memmap) and x.mode != "r+":  # it cannot be written, or is written to memory alone
            return x
        made = self._sized(x, x.nbytes, lambda array: array.copy())
        if made is not x and x.dtype == object and x.size <= MOST_ENTRIES:
            self.memo[id(x)] = made
            for place, entry in enumerate(x.flat):
                made.flat[place] = self(entry)
        return made

    def _file(self, x: Any) -> Any:
        again = opened_again(x)
        if again is None:
            self.rewind.append(partial(x.seek, x.tell()))
            return x
        made, handle = again
        self.opened.append(handle)
        return made

    def _container(self, x: Any) -> Any:
        """A list, set, dict or deque; its entries are shared where there are very many."""
        if self._has_many(x):
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

    def _has_many(self, x: Any) -> bool:
        return len(x) > MOST_ENTRIES or self.looked_at > MOST_OBJECTS

    def _tuple(self, x: tuple[Any, ...]) -> Any:
        if self._has_many(x):
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

    def _method(self, x: types.MethodType) -> Any:
        return types.MethodType(x.__func__, self(x.__self__))

    def _function(self, x: types.FunctionType) -> Any:
        """The function itself, or where it holds something that was copied, one that holds the copy."""
        self._watch(x)
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

    def _watch(self, function: types.FunctionType) -> None:
        """Put generators, counters and containers back that stand in the module of a function.

        They are global, so that no copy of them is read.
        """
        if id(function) in self.watched:
            return
        self.watched[id(function)] = function
        for name in function.__code__.co_names:
            self._rewind(function.__globals__.get(name))
        variables = global_variables(function)
        if variables:
            self.rewind.append(partial(restore_variables, function, variables))
        for value in variables.values():
            if isinstance(value, types.FunctionType):
                self._watch(value)
            elif isinstance(value, type):
                self._watch_class(value)
            elif type(value) in (dict, list, set, deque, OrderedDict, defaultdict, Counter):
                self._rewind(value)
            elif isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, _LARGE_KINDS):
                self._rewind(value.__dict__)

    def _rewind(self, held: Any) -> None:
        """Put one generator or container of the user's own back after the block; not what it holds."""
        if id(held) not in self.watched and isinstance(held, GENERATORS + _CONTAINERS):
            self.watched[id(held)] = held
            if isinstance(held, GENERATORS):
                self.memo[id(held)] = held
                self.rewind.append(rewinding(held))
            else:
                (kind,) = kinds_of(type(held))[:1]
                self.rewind.append(partial(kind.restore, held, kind.save(held)))

    def _watch_class(self, cls: type) -> None:
        """Put the data of a class and of its bases back, which may serve as counters."""
        for own in user_classes(cls):
            if id(own) not in self.watched:
                self.watched[id(own)] = own
                self.rewind.append(partial(CLASS.restore, own, CLASS.save(own)))

    def _local(self, x: Any) -> Any:
        made = type(x)()
        self.memo[id(x)] = made
        made.__dict__.update({name: self(value) for name, value in x.__dict__.items()})
        return made

    def _object(self, x: Any) -> Any:
        kind = type(x)
        if kind.__module__.partition(".")[0] in ("PIL", "pyarrow"):  # contents that are only read
            return x
        size = sys.getsizeof(x)
        if size >= LARGE:
            return x
        if hasattr(kind, "__deepcopy__"):
            for part in getattr(x, "__dict__", {}).values():
                if isinstance(part, Tensor | np.ndarray) and part.nbytes >= LARGE:
                    self.memo[id(part)] = part
            return self._sized(x, size, lambda each: copy.deepcopy(each, self.memo))
        reduce = copyreg.dispatch_table.get(kind)
        reduced = x.__reduce_ex__(4) if reduce is None else reduce(x)
        return x if isinstance(reduced, str) else self._rebuilt(x, *reduced)

    def _rebuilt(
        self, x: Any, function: Any, arguments: Any, state: Any = None, items: Any = None, pairs: Any = None, *_: Any
    ) -> Any:
        """An object from what `__reduce_ex__` tells of it."""
        if function is not copyreg.__newobj__:  # type: ignore[attr-defined]  # contents of C types are parts of their own
            size = sum(sys.getsizeof(part) for part in arguments)
            if size > self.left:
                return x
            self.left -= size
        made = function(*(self(argument) for argument in arguments))
        self.memo[id(x)] = made
        self.made.append(made)
        if state is not None:
            _set_state(made, self(state))
        self._add_class_attributes(made)
        few = (items is None and pairs is None) or not self._has_many(x)
        for item in items or ():
            made.append(self(item) if few else item)
        for key, value in pairs or ():
            made[self(key) if few else key] = self(value) if few else value
        return made

    def _add_class_attributes(self, made: Any) -> None:
        """Give the copy caches and generators of its own where its class holds them; watch those of its methods."""
        attributes: Any = getattr(made, "__dict__", None)
        if not isinstance(attributes, dict):
            return
        kind = type(made)
        self._watch_class(kind)
        if kind not in self.of_class:
            held = [(name, value) for each in kind.__mro__ for name, value in list(vars(each).items())]
            for _, value in held:
                if isinstance(value, types.FunctionType):
                    self._watch(value)
            self.of_class[kind] = [(name, value) for name, value in held if _may_change(name, value)]
        for name, value in self.of_class[kind]:
            if name not in attributes:
                attributes[name] = self(value)


def _may_change(name: str, value: Any) -> bool:
    kinds = (*GENERATORS, Tensor, np.ndarray)
    return not name.startswith("__") and (type(value) in _CONTAINERS or isinstance(value, kinds))


def _disarm(made: Any) -> None:
    """Let no `__del__` of a copy close what it shares with the original."""
    kind = type(made)
    try:
        made.__class__ = type(kind.__name__, (kind,), {"__del__": lambda self: None, "__slots__": ()})
    except TypeError:  # a class that cannot be derived from: its `__del__` will find nothing
        getattr(made, "__dict__", {}).clear()


def _copy_tensor(x: Tensor) -> Any:
    return copy.deepcopy(x) if x.is_leaf else x.detach().clone()


def _copy_generator(copier: _Copier, x: torch.Generator) -> torch.Generator:
    made = torch.Generator(device=x.device)
    made.set_state(x.get_state())
    return made


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _parts(made: Any) -> list[Any]:
    """What stands directly in an object or container."""
    if type(made) in _CONTAINERS:
        return list(made.values() if isinstance(made, dict) else made) if len(made) <= MOST_ENTRIES else []
    held = getattr(made, "__dict__", None)
    return list(held.values()) if isinstance(held, dict) else []


def _set_state(made: Any, state: Any) -> None:
    if hasattr(made, "__setstate__"):
        made.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        made.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(made, name, value)


_ATOMS = {bool, int, float, complex, str, bytes, frozenset, range, slice, type(Ellipsis), type(NotImplemented)}
_ATOMS |= {torch.dtype, torch.device, torch.Size, torch.layout, property}
_AS_IS = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, np.generic, np.dtype)
_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict, Counter)
_LARGE_KINDS = (torch.nn.Module, Tensor, np.ndarray, types.FunctionType)
_CLOSED = (io.IOBase, sqlite3.Connection)
_HOW: tuple[tuple[Any, Callable[[_Copier, Any], Any]], ...] = (
    (tuple, _Copier._tuple),
    (torch.Generator, _copy_generator),
    (types.MethodType, _Copier._method),
    (weakref.ref, _Copier._reference),
    (functools._lru_cache_wrapper, _Copier._cached),
    (types.FunctionType, _Copier._function),
    (threading.local, _Copier._local),
    (bytearray, lambda copier, x: copier._sized(x, len(x), bytearray)),
)
