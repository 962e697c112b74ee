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

MOST_COPIED = 256 * 2**20  # bytes of the parameters, and of all other tensors that are no buffers

_SPARSE: dict[torch.layout, tuple[str, ...]] = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}
_COMPRESSED: dict[torch.layout, Callable[..., Tensor]] = {
    torch.sparse_csr: torch.sparse_csr_tensor,
    torch.sparse_bsr: torch.sparse_bsr_tensor,
    torch.sparse_csc: torch.sparse_csc_tensor,
    torch.sparse_bsc: torch.sparse_bsc_tensor,
}

Place = tuple[Any, ...]
Told = Callable[[str, Exception], None]

_JOINED = 2**20  # bytes of a piece up to which pieces are copied and compared together, in one operation
_PLAIN = (Tensor, nn.Parameter)
_FLOATS = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
_AS_BYTES = _FLOATS | {torch.int64, torch.int32, torch.uint8, torch.bool}


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
        views = [memory.view() for memory in memories]
        return cls(memories, torch.cat(views) if len(views) > 1 else views[0].clone())

    def differ(self) -> Tensor | bool:
        """Whether any byte has changed; on an accelerator the answer stays there."""
        views = [memory.view() for memory in self.memories]
        now, before = _as_words(torch.cat(views) if len(views) > 1 else views[0]), _as_words(self.copy)
        return not torch.equal(now, before) if now.device.type == "cpu" else (now != before).any()

    def write(self) -> None:
        """Write the bytes of before where they differ."""
        before = self.copy.split([memory.end - memory.start for memory in self.memories])
        for memory, copy in zip(self.memories, before, strict=True):
            view = memory.view()
            if not torch.equal(view, copy):
                view.copy_(copy)


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
        plain = kind in _PLAIN and alias.layout == torch.strided and alias.dtype in _AS_BYTES
        parts = (alias,) if plain else tuple(part.detach() for part in _parts(alias))
        gradient = tensor.grad if tensor.is_leaf else None
        version = None if copied or tensor.is_inference() else tensor._version
        place = None if plain else _place(alias)
        self._kept.append(_Kept(tensor, kind, alias, parts, place, tensor.requires_grad, gradient, version))
        for part in parts if copied else ():
            self._cover(part)

    def _cover(self, part: Tensor) -> None:
        storage = part.untyped_storage()
        if part.device.type == "meta":
            return
        size = storage.nbytes()
        if part.dtype in _AS_BYTES and part.is_contiguous() and part.nbytes == size:
            self._memories[storage._cdata] = _Memory(storage, size, 0, size, part)
            return
        start, end = _extent(part)
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
    elif _place(tensor) != kept.place:
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


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The plain tensors that hold the values of a tensor."""
    if nn.parameter.is_lazy(tensor):
        return ()
    if tensor.layout in _SPARSE:
        return tuple(getattr(tensor, name)() for name in _SPARSE[tensor.layout])
    if hasattr(tensor, "__tensor_flatten__"):
        return tuple(part for name in tensor.__tensor_flatten__()[0] for part in _parts(getattr(tensor, name)))
    if tensor.is_nested:
        return (tensor.values(),)
    return (tensor,)


def _place(tensor: Tensor) -> Place:
    """Where a tensor lies and how it is laid out; equal for equal places."""
    if nn.parameter.is_lazy(tensor):
        return ()
    places = [
        (part.untyped_storage()._cdata, part.storage_offset(), part.shape, part.stride(), part.dtype)
        for part in _parts(tensor)
    ]
    if tensor.layout == torch.sparse_coo:
        return (*places, tensor.shape, tensor.is_coalesced())
    return (*places, tensor.shape)


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The first byte of its storage that a tensor may touch, and the one after the last; whole words of eight."""
    if tensor.numel() == 0:
        return 0, 0
    size = tensor.element_size()
    start = tensor.storage_offset() * size
    reach = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    end = start + (reach + 1) * size
    return start // 8 * 8, min(-(-end // 8) * 8, tensor.untyped_storage().nbytes())


def _as_words(flat: Tensor) -> Tensor:
    return flat.view(torch.int64) if len(flat) % 8 == 0 and flat.data_ptr() % 8 == 0 else flat


def _describe(tensor: Any) -> str:
    try:
        return f"{type(tensor).__name__} of shape {tuple(tensor.shape)}"
    except Exception:  # an uninitialised tensor has no shape
        return type(tensor).__name__


def bytes_of(tensor: Tensor) -> bytes:
    """The values of a tensor, and nothing of the storage around it."""
    # Copied first: `numpy` would take from the storage that it can be resized.
    flat = [part.detach().to("cpu", copy=True).contiguous() for part in _parts(tensor)]
    return b"".join(part.flatten().view(torch.uint8).numpy().tobytes() for part in flat if part.numel())


def memory_of(tensor: Tensor) -> int:
    """The bytes that a copy of a tensor would take."""
    if type(tensor) in _PLAIN and tensor.layout == torch.strided and tensor.is_contiguous():
        return tensor.nbytes
    try:
        return sum(end - start for start, end in map(_extent, _parts(tensor)))
    except Exception:  # a tensor without a storage of its own
        return 0
