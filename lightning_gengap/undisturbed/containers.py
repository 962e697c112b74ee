"""Containers, arrays and random generators: kept as the same object with the same content."""

from __future__ import annotations

import array
import functools
import io
import random
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from operator import is_
from typing import Any

import numpy as np
import torch

from lightning_gengap.undisturbed.kind import Kind, NotKept, no_parts, nothing_to_restore, saved_parts

MOST_ITEMS = 10_000  # of a container whose items are looked into; of larger ones the items themselves are kept
MOST_BYTES = 64 * 2**20  # of one array


def restore_dict(now: dict[Any, Any], saved: dict[Any, Any]) -> None:
    """Give a dictionary the items of before, in their order."""
    if len(now) == len(saved) and all(map(is_, now.values(), saved.values())) and all(map(is_, now, saved)):
        return
    if isinstance(now, OrderedDict):  # it has an order of its own, which the methods of `dict` would break
        OrderedDict.clear(now)
        for key, value in saved.items():
            OrderedDict.__setitem__(now, key, value)
    else:
        dict.clear(now)
        dict.update(now, saved)


def _restore_list(now: list[Any], saved: list[Any]) -> None:
    if not _are_same(now, saved):
        list.__setitem__(now, slice(None), saved)


def _restore_deque(now: deque[Any], saved: list[Any]) -> None:
    if not _are_same(now, saved):
        deque.clear(now)
        deque.extend(now, saved)


def _are_same(now: Sequence[Any], saved: Sequence[Any]) -> bool:
    return len(now) == len(saved) and all(map(is_, now, saved))


def _restore_set(now: set[Any], saved: set[Any]) -> None:
    if now != saved:
        set.clear(now)
        set.update(now, saved)


def _restore_slices(now: Any, saved: Any) -> None:
    if now != saved:
        now[:] = saved


def _restore_local(now: threading.local, saved: dict[str, Any]) -> None:
    restore_dict(now.__dict__, saved)


def _few(saved: Any) -> Any:
    return saved if len(saved) <= MOST_ITEMS else ()


def _save_array(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if numbers.nbytes > MOST_BYTES:
        raise NotKept(f"an array of {numbers.nbytes / 2**20:.0f} MiB")
    return numbers.copy()


def _restore_array(now: np.ndarray[Any, Any], saved: np.ndarray[Any, Any]) -> None:
    if now.shape != saved.shape:
        now.resize(saved.shape, refcheck=False)
    if now.tobytes() != saved.tobytes():
        np.copyto(now, saved)


def _parts_of_array(saved: np.ndarray[Any, Any]) -> Sequence[Any]:
    return saved.ravel().tolist() if saved.dtype == object and saved.size <= MOST_ITEMS else ()


def _save_position(file: io.IOBase) -> int:
    if not file.seekable() or file.writable():
        raise NotKept("reading a file is all that can be undone")
    return file.tell()


def _restore_position(file: io.IOBase, saved: int) -> None:
    if file.tell() != saved:
        file.seek(saved)


def _save_text(buffer: io.StringIO | io.BytesIO) -> tuple[Any, int]:
    return buffer.getvalue(), buffer.tell()


def _restore_text(buffer: Any, saved: tuple[Any, int]) -> None:
    content, position = saved
    if buffer.getvalue() != content:
        buffer.seek(0)
        buffer.truncate()
        buffer.write(content)
    buffer.seek(position)


def _save_cache(cache: Any) -> tuple[Any, Any]:
    return cache.cache_info(), cache.__wrapped__


def _restore_cache(cache: Any, saved: tuple[Any, Any]) -> None:
    """Empty a cache of results that was empty. Where others had entries, ours cannot be told apart from them."""
    before, _ = saved
    if before == (0, 0, before.maxsize, 0) and cache.cache_info() != before:
        cache.cache_clear()


def _restore_generator(generator: torch.Generator, saved: torch.Tensor) -> None:
    if not torch.equal(generator.get_state(), saved):
        generator.set_state(saved)


def _restore_numpy_generator(generator: np.random.Generator, saved: dict[str, Any]) -> None:
    generator.bit_generator.state = saved


def _restore_bits(bits: Any, saved: dict[str, Any]) -> None:
    bits.state = saved


CONTAINERS: tuple[tuple[type | tuple[type, ...], Kind], ...] = (
    (dict, Kind(lambda held: dict(dict.items(held)), restore_dict, _few)),
    (list, Kind(list.copy, _restore_list, _few)),
    (deque, Kind(list, _restore_deque, _few)),
    (set, Kind(set, _restore_set, lambda saved: list(_few(saved)))),
    ((tuple, frozenset), Kind(tuple, nothing_to_restore, _few)),
    (np.ndarray, Kind(_save_array, _restore_array, _parts_of_array)),
    ((bytearray, array.array), Kind(lambda held: held[:], _restore_slices, no_parts)),
    ((io.StringIO, io.BytesIO), Kind(_save_text, _restore_text, no_parts)),
    (io.IOBase, Kind(_save_position, _restore_position, no_parts)),
    (threading.local, Kind(lambda own: dict(own.__dict__), _restore_local, _few)),
    (functools._lru_cache_wrapper, Kind(_save_cache, _restore_cache, saved_parts)),
    (torch.Generator, Kind(torch.Generator.get_state, _restore_generator, no_parts)),
    (random.Random, Kind(lambda own: own.getstate(), lambda own, saved: own.setstate(saved), no_parts)),
    (np.random.Generator, Kind(lambda own: own.bit_generator.state, _restore_numpy_generator, no_parts)),
    (np.random.BitGenerator, Kind(lambda own: own.state, _restore_bits, no_parts)),
    (np.random.RandomState, Kind(lambda own: own.get_state(), lambda own, saved: own.set_state(saved), no_parts)),
)
