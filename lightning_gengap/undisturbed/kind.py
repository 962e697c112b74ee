"""What it takes to keep an object: how it is saved, how it is restored in place, and what it holds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Saved = Any

_LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities", "lightning_gengap"}
_PLAIN = frozenset({"builtins", "abc", "typing", "typing_extensions", "collections"})
_FOREIGN = (frozenset(_LIGHTNING | {"torch", "numpy"}) | sys.stdlib_module_names) - _PLAIN - {"__main__"}
_OF_TRAINERS = ("torch.optim", "torch.utils.data", "torch.distributed")
_OF_THREADS = frozenset({"_thread", "threading", "queue", "_queue", "multiprocessing", "concurrent", "asyncio"})
_OF_FILES = frozenset({"_io", "io", "tempfile"})
_WEAK = ("WeakKeyDictionary", "WeakValueDictionary", "WeakSet")
_EXTENDED = ("SimpleNamespace", "Namespace", "Callback", *_WEAK)  # foreign classes whose objects may keep some state


class Kind(NamedTuple):
    """One kind of object.

    Attributes:
        save: what has to be kept of an object.
        restore: makes an object what it was, and writes nothing where nothing changed.
        parts: the objects that it held, by name or position.
    """

    save: Callable[[Any], Saved]
    restore: Callable[[Any, Saved], None]
    parts: Callable[[Saved], dict[Any, Any] | Sequence[Any]]


class NotKept(Exception):  # noqa: N818
    """An object that is too large, or cannot change by itself."""


class Shared(Exception):  # noqa: N818
    """An object that other threads may change meanwhile."""


def nothing_to_restore(thing: Any, saved: Saved) -> None:
    """For objects that cannot change themselves; only what they hold can."""


def saved_parts(saved: Any) -> Any:
    """For objects of which what they hold is saved."""
    return saved


def no_parts(saved: Any) -> Sequence[Any]:
    """For objects that hold no others."""
    return ()


def package_of(cls: type) -> str:
    """The name of the outermost package in which a class was defined."""
    return str(getattr(cls, "__module__", "")).partition(".")[0]


def is_foreign(package: str | None) -> bool:
    """Whether a package is Python's, NumPy's, torch's or Lightning's: its objects are not looked into by default."""
    return (package or "").partition(".")[0] in _FOREIGN


def is_users(cls: type) -> bool:
    """Whether a class was defined by the user, or by a library that builds models."""
    return package_of(cls) not in _FOREIGN | _PLAIN


def is_of_threads(cls: type) -> bool:
    """Whether a class serves threads or processes."""
    return package_of(cls) in _OF_THREADS


def belongs_to_others(cls: type) -> bool:
    """Whether objects of this class belong to a Trainer, an optimizer, a loader, a thread or a file."""
    return any(
        package_of(base) in _LIGHTNING | _OF_THREADS | _OF_FILES or str(base.__module__).startswith(_OF_TRAINERS)
        for base in cls.__mro__
    )


def is_looked_into(cls: type) -> bool:
    """Whether objects of this class are looked into, unless they are modules, containers or functions.

    What belongs to a Trainer, an optimizer, a logger, a data set, a thread or a file is not the model's. A callback of
    the user's is reached through the forward hooks that it has registered.
    """
    bases = (base for base in cls.__mro__ if base is not object and base.__name__ not in _EXTENDED)
    return not any(is_foreign(package_of(base)) or package_of(base) == "builtins" for base in bases)
