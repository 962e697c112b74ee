"""Everything that some objects reach, saved before a measurement and restored after it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from lightning_gengap.undisturbed.global_variables import called_functions
from lightning_gengap.undisturbed.kind import Kind, Shared, belongs_to_others
from lightning_gengap.undisturbed.kinds import kinds_of
from lightning_gengap.undisturbed.objects import CLASS, has_attributes, object_kind, user_classes
from lightning_gengap.undisturbed.places import memory_of
from lightning_gengap.undisturbed.tensors import MOST_COPIED, KeptTensors

MOST_OBJECTS = 200_000
_UNCHANGING = frozenset(
    {int, float, bool, str, bytes, complex, range, slice, *map(type, (None, ..., NotImplemented, len))}
)

_CLEARED = frozenset({dict, list, set, OrderedDict})


class Snapshot:
    """What some objects hold, directly or through others: which objects, and their values."""

    def __init__(self, *roots: Any, copies: bool = True) -> None:
        """Save all that the roots reach; without `copies` of tensors it cannot be restored."""
        self._seen: dict[int, Any] = {}  # the objects themselves, so that none is freed and its id given away
        self._records: list[tuple[Any, Kind, Any]] = []
        self._shared: set[int] = set()
        self._empty: list[Any] = []  # containers without an item, as most registries of modules are
        self._tensors: dict[int, Tensor] = {}
        self._kinds: dict[type, tuple[Kind, ...]] = {}
        self._kinds |= {type(root): (object_kind(type(root)),) for root in roots if has_attributes(type(root))}
        self._kinds |= {type(root): kinds_of(type(root)) for root in roots if isinstance(root, nn.Module)}
        self._walk((*roots, *_global_hooks()) if copies else roots)
        self._kept = KeptTensors()
        if copies:
            self._keep_tensors()

    def restore(self) -> list[str]:
        """Make everything what it was; what could not be restored, and why."""
        failures: list[str] = []

        def failed(what: str, error: Exception) -> None:
            failures.append(f"{what}: {error}")

        self._kept.restore(failed)  # first, because classes of tensors may count what is done to them
        for thing, kind, saved in self._records:
            try:
                kind.restore(thing, saved)
            except Exception as error:
                failed(type(thing).__name__, error)
        for thing in self._empty:
            if thing:
                thing.clear()
        return failures

    @property
    def objects(self) -> list[Any]:
        """All that is reached, but numbers and strings."""
        return list(self._seen.values())

    @property
    def modules(self) -> list[nn.Module]:
        """All modules that are reached, also those that hide in lists or other objects."""
        return [thing for thing, _, _ in self._records if isinstance(thing, nn.Module)]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that are reached."""
        return list(self._tensors.values())

    @property
    def of_others(self) -> list[Any]:
        """What is reached and not the model's: a Trainer, an optimizer, a data set, a file, or what threads share."""
        return [
            thing
            for key, thing in self._seen.items()
            if key not in self._tensors and (belongs_to_others(type(thing)) or key in self._shared)
        ]

    def reaches(self, thing: Any) -> bool:
        """Whether this object was reached, and is no number or string."""
        return id(thing) in self._seen

    def held_by(self, thing: Any) -> Iterator[dict[Any, Any]]:
        """What a reached object held, by name or position."""
        for kind, saved in self._by_object.get(id(thing), ()):
            parts = kind.parts(saved)
            yield parts if isinstance(parts, dict) else dict(enumerate(parts))

    @cached_property
    def _by_object(self) -> dict[int, list[tuple[Kind, Any]]]:
        found: dict[int, list[tuple[Kind, Any]]] = {}
        for thing, kind, saved in self._records:
            found.setdefault(id(thing), []).append((kind, saved))
        return found

    def _walk(self, roots: tuple[Any, ...]) -> None:
        """Look into each object once. The stack is our own, because chains of objects may be deep."""
        stack = list(roots)
        seen = self._seen
        classes: set[type] = set()
        while stack and len(seen) < MOST_OBJECTS:
            thing = stack.pop()
            cls = type(thing)
            if cls in _UNCHANGING or id(thing) in seen:
                continue
            if isinstance(thing, type):
                stack += self._save_classes(thing)
                continue
            seen[id(thing)] = thing
            if cls in _CLEARED and not thing:
                self._empty.append(thing)
                continue
            kinds = self._kinds.get(cls)
            if kinds is None:
                kinds = self._kinds[cls] = kinds_of(cls)
            for kind in kinds:
                stack += self._save(thing, kind)
            is_tensor = not kinds and isinstance(thing, Tensor)
            if is_tensor:
                self._tensors[id(thing)] = thing
                if thing.__dict__:  # what the user has noted on it
                    stack.append(thing.__dict__)
            if (kinds or is_tensor) and cls not in classes:
                classes.add(cls)
                stack += self._save_classes(cls)
                stack += called_functions(cls).values()

    def _save_classes(self, cls: type) -> list[Any]:
        """Record the data of a class and of its bases, and give what they hold."""
        held: list[Any] = []
        for own in user_classes(cls):
            if id(own) not in self._seen:
                self._seen[id(own)] = own
                held += self._save(own, CLASS)
        return held

    def _save(self, thing: Any, kind: Kind) -> Any:
        """Record one object, and give what it holds; nothing for one that cannot be kept."""
        try:
            saved = kind.save(thing)
            parts = kind.parts(saved)
        except Shared:
            self._shared.add(id(thing))
            return ()
        except Exception:  # it is not kept, or raises errors of its own
            return ()
        self._records.append((thing, kind, saved))
        return parts.values() if isinstance(parts, dict) else parts

    def _keep_tensors(self) -> None:
        """Copy what there is room for: all buffers, the parameters or none of them, and other tensors."""
        protected = {id(tensor) for module in self.modules for tensor in _always_copied(module)}
        parameters = [tensor for tensor in self._tensors.values() if isinstance(tensor, nn.Parameter)]
        copies_parameters = sum(map(memory_of, parameters)) <= MOST_COPIED
        room = MOST_COPIED
        for tensor in self._tensors.values():
            copied = id(tensor) in protected
            if not copied and isinstance(tensor, nn.Parameter):
                copied = copies_parameters
            elif not copied:
                size = memory_of(tensor)
                copied = size <= room
                room -= size if copied else 0
            self._keep(tensor, copied)
        for gradient in (tensor.grad for tensor in parameters if tensor.is_leaf):
            if gradient is not None and id(gradient) not in self._tensors:
                size = memory_of(gradient)
                self._keep(gradient, copied=size <= room)
                room -= size if size <= room else 0
        self._kept.copy()

    def _keep(self, tensor: Tensor, copied: bool) -> None:
        try:
            self._kept.keep(tensor, copied)
        except Exception:  # a tensor without memory of its own
            return


def _always_copied(module: nn.Module) -> list[Tensor]:
    """The buffers of a module, and the weights of an embedding that renormalises them in its forward."""
    found = list(module._buffers.values())
    if module.__dict__.get("max_norm") is not None:
        found += module._parameters.values()
    return [tensor for tensor in found if tensor is not None]


def _global_hooks() -> list[Any]:
    """The registries of hooks that torch calls for every module: what these hooks remember is the user's too."""
    return [hooks for name, hooks in vars(torch_module).items() if name.startswith("_global_") and hooks]
