"""Tensors kept as the memory that they lie on, byte by byte, so that no kind of tensor needs arithmetic of its own.

A tensor is its object, its class, its place in one or several storages, and their bytes. Bytes are compared first: what
is equal is not written. Sparse, quantised, complex, expanded and overlapping tensors are then all alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_gengap.undisturbed.places import PLAIN, Place, extent_of, is_plain, parts_of, place_of

MOST_COPIED = 256 * 2**20  # bytes of the parameters, and of all other tensors that are no buffers

_COMPRESSED: dict[torch.layout, Callable[..., Tensor]] = {
    torch.sparse_csr: torch.sparse_csr_tensor,
    torch.sparse_bsr: torch.sparse_bsr_tensor,
    torch.sparse_csc: torch.sparse_csc_tensor,
    torch.sparse_bsc: torch.sparse_bsc_tensor,
}

Told = Callable[[str, Exception], None]

_JOINED = 2**20  # bytes of a piece up to which pieces are copied and compared together, in one operation


class _Kept(NamedTuple):
    """One tensor object: what it was, and an alias of the memory on which it lay."""

    tensor: Tensor
    kind: type[Tensor]
    alias: Tensor
    parts: tuple[Tensor, ...]
    place: Place | None  # None for a plain tensor: its alias says it
    requires_grad: bool
    gradient: Tensor | None
    version: int | None  # of a tensor that is only watched, because it is too large to be copied


@dataclass
class _Memory:
    """The bytes of one storage from `start` to `end`, on which kept tensors lie."""

    storage: torch.UntypedStorage
    size: int
    start: int
    end: int
    part: Tensor | None  # one that is all of the storage

    def view(self) -> Tensor:
        """The bytes as they are now, without an axis."""
        if self.part is not None:
            return self.part.view(-1).view(torch.uint8)
        whole = torch.empty(0, dtype=torch.uint8, device=self.storage.device).set_(self.storage)
        return whole[self.start : self.end]


@dataclass
class _Pieces:
    """Pieces of memory on one device that are copied and compared together."""

    memories: list[_Memory]
    copy: Tensor

    @classmethod
    def of(cls, memories: list[_Memory]) -> _Pieces:
        return cls(memories, _joined(memories, copied=True))

    def now(self) -> Tensor:
        """The bytes as they are now, one piece after the other."""
        return _joined(self.memories, copied=False)

    def differ(self) -> Tensor | bool:
        """Whether any byte has changed; on an accelerator the answer stays there."""
        now, before = _as_words(self.now()), _as_words(self.copy)
        return not torch.equal(now, before) if now.device.type == "cpu" else (now != before).any()

    def write(self) -> None:
        """Write the bytes of before where they differ."""
        before = self.copy.split([memory.end - memory.start for memory in self.memories])
        for memory, copy in zip(self.memories, before, strict=True):
            view = memory.view()
            if not torch.equal(view, copy):
                view.copy_(copy)


def _joined(memories: list[_Memory], copied: bool) -> Tensor:
    views = [memory.view() for memory in memories]
    if len(views) > 1:
        return torch.cat(views)
    return views[0].clone() if copied else views[0]


class KeptTensors:
    """All tensors that a model reaches, each once."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []
        self._memories: dict[int, _Memory] = {}
        self._pieces: list[_Pieces] = []

    def keep(self, tensor: Tensor, copied: bool) -> None:
        """Keep a tensor: with its bytes, or only watched."""
        kind, lazy = type(tensor), nn.parameter.is_lazy(tensor)
        alias = tensor.data if lazy else tensor.detach()
        plain = kind in PLAIN and is_plain(alias)
        parts = (alias,) if plain else tuple(part.detach() for part in parts_of(alias))
        gradient = tensor.grad if tensor.is_leaf else None
        version = None if copied or tensor.is_inference() else tensor._version
        place = None if plain else place_of(alias)
        self._kept.append(_Kept(tensor, kind, alias, parts, place, tensor.requires_grad, gradient, version))
        for part in parts if copied else ():
            self._cover(part)

    def _cover(self, part: Tensor) -> None:
        storage = part.untyped_storage()
        if part.device.type == "meta":
            return
        size = storage.nbytes()
        if is_plain(part) and part.is_contiguous() and part.nbytes == size:
            self._memories[storage._cdata] = _Memory(storage, size, 0, size, part)
            return
        start, end = extent_of(part)
        known = self._memories.setdefault(storage._cdata, _Memory(storage, size, start, end, None))
        known.start, known.end = min(known.start, start), max(known.end, end)

    def copy(self) -> None:
        """Copy all bytes; call it once, when every tensor is kept."""
        small: dict[torch.device, list[_Memory]] = {}
        for memory in self._memories.values():
            if memory.end - memory.start > _JOINED:
                self._pieces.append(_Pieces.of([memory]))
            else:
                small.setdefault(memory.storage.device, []).append(memory)
        self._pieces += map(_Pieces.of, small.values())

    def restore(self, failed: Told) -> None:
        """Make every tensor what it was. What fails is told, and everything else is restored all the same."""
        with torch.no_grad():
            for memory in self._memories.values():
                try:
                    if memory.storage.nbytes() != memory.size:
                        memory.storage.resize_(memory.size)
                except Exception as error:
                    failed("the memory of a tensor", error)
            for pieces in self._written(failed):
                try:
                    pieces.write()
                except Exception as error:
                    failed("the values of a tensor", error)
            for kept in self._kept:
                try:
                    _restore_object(kept)
                except Exception as error:
                    failed(_describe(kept.tensor), error)

    def _written(self, failed: Told) -> list[_Pieces]:
        """Pieces with other bytes than before. An accelerator is asked once, for all of its memory."""
        written: list[_Pieces] = []
        asked: dict[torch.device, list[tuple[_Pieces, Tensor]]] = {}
        for pieces in self._pieces:
            try:
                answer = pieces.differ()
            except Exception as error:
                failed("the memory of a tensor", error)
                continue
            if isinstance(answer, Tensor):
                asked.setdefault(answer.device, []).append((pieces, answer))
            elif answer:
                written.append(pieces)
        for answers in asked.values():
            changed = torch.stack([answer for _, answer in answers]).tolist()
            written += [pieces for (pieces, _), is_changed in zip(answers, changed, strict=True) if is_changed]
        return written


def _restore_object(kept: _Kept) -> None:
    tensor = kept.tensor
    if type(tensor) is not kept.kind:  # a lazy parameter that became a real one
        tensor.data = kept.alias
        tensor.__class__ = kept.kind
    elif kept.place is None:
        if not tensor.is_set_to(kept.alias):
            tensor.data = kept.alias
    elif place_of(tensor) != kept.place:
        tensor.data = _rebuilt(kept, bool(kept.place[-1]))
    if tensor.requires_grad != kept.requires_grad and tensor.is_leaf:
        tensor.requires_grad_(kept.requires_grad)
    if tensor.is_leaf and tensor.grad is not kept.gradient:
        tensor.grad = kept.gradient
    if kept.version is not None and tensor._version != kept.version:
        raise RuntimeError("the forward wrote to it, and it is too large to be copied")


def _rebuilt(kept: _Kept, coalesced: bool) -> Tensor:
    """A tensor on the memory of before."""
    alias = kept.alias
    if alias.layout == torch.sparse_coo:
        indices, values = kept.parts
        return torch.sparse_coo_tensor(indices, values, alias.shape, is_coalesced=coalesced, check_invariants=False)
    if alias.layout in _COMPRESSED:
        return _COMPRESSED[alias.layout](*kept.parts, size=alias.shape, check_invariants=False)
    return alias


def _as_words(flat: Tensor) -> Tensor:
    return flat.view(torch.int64) if len(flat) % 8 == 0 and flat.data_ptr() % 8 == 0 else flat


def _describe(tensor: Any) -> str:
    try:
        return f"{type(tensor).__name__} of shape {tuple(tensor.shape)}"
    except Exception:  # an uninitialised tensor has no shape
        return type(tensor).__name__
