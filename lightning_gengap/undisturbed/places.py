"""Where tensors of every kind lie: the plain ones that hold their values, and the bytes of a storage."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_SPARSE: dict[torch.layout, tuple[str, ...]] = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}

Place = tuple[Any, ...]

PLAIN = (Tensor, nn.Parameter)
_FLOATS = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
_AS_BYTES = _FLOATS | {torch.int64, torch.int32, torch.uint8, torch.bool}


def parts_of(tensor: Tensor) -> tuple[Tensor, ...]:
    """The plain tensors that hold the values of a tensor."""
    if nn.parameter.is_lazy(tensor):
        return ()
    if tensor.layout in _SPARSE:
        return tuple(getattr(tensor, name)() for name in _SPARSE[tensor.layout])
    if hasattr(tensor, "__tensor_flatten__"):
        return tuple(part for name in tensor.__tensor_flatten__()[0] for part in parts_of(getattr(tensor, name)))
    if tensor.is_nested:
        return (tensor.values(),)
    return (tensor,)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor lies on its storage as its type and strides say."""
    strided = tensor.layout == torch.strided and not tensor.is_nested
    return strided and tensor.dtype in _AS_BYTES and not tensor.is_meta


def place_of(tensor: Tensor) -> Place:
    """Where a tensor lies and how it is laid out; equal for equal places."""
    if nn.parameter.is_lazy(tensor):
        return ()
    places = [
        (part.untyped_storage()._cdata, part.storage_offset(), part.shape, part.stride(), part.dtype)
        for part in parts_of(tensor)
    ]
    if tensor.is_nested:
        return tuple(places)
    if tensor.layout == torch.sparse_coo:
        return (*places, tensor.shape, tensor.is_coalesced())
    return (*places, tensor.shape)


def extent_of(tensor: Tensor) -> tuple[int, int]:
    """The first byte of its storage that a tensor may touch, and the one after the last; whole words of eight."""
    if tensor.numel() == 0:
        return 0, 0
    size = tensor.element_size()
    start = tensor.storage_offset() * size
    reach = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    end = start + (reach + 1) * size
    return start // 8 * 8, min(-(-end // 8) * 8, tensor.untyped_storage().nbytes())


def bytes_of(tensor: Tensor) -> bytes:
    """The values of a tensor, and nothing of the storage around it."""
    # Copied first: `numpy` would take from the storage that it can be resized.
    flat = [part.detach().to("cpu", copy=True).contiguous() for part in parts_of(tensor)]
    return b"".join(part.flatten().view(torch.uint8).numpy().tobytes() for part in flat if part.numel())


def memory_of(tensor: Tensor) -> int:
    """The bytes that a copy of a tensor would take."""
    if type(tensor) in PLAIN and is_plain(tensor) and tensor.is_contiguous():
        return tensor.nbytes
    try:
        return sum(end - start for start, end in map(extent_of, parts_of(tensor)))
    except Exception:  # a tensor without a storage of its own
        return 0
