"""A private copy shares what is large, and reading from it leaves no trace in the original."""

# ruff: noqa: SIM115
from __future__ import annotations

import functools
import gc
import gzip
import io
import itertools
import mmap
import os
import random
import sqlite3
import tempfile
import threading
import types
import weakref
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_gengap.samples import dataset_copy
from lightning_gengap.samples.dataset_copy import private_copy

STREAM = np.random.default_rng(0)
RANDOM = random.Random(0)
Pair = namedtuple("Pair", "first second")


class Slotted:
    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = [0]


class Everything(Dataset[Any]):
    """Keeps everything that a data set may change while it is read."""

    shared_cache: dict[int, Any] = {}  # noqa: RUF012  # as users write it
    class_stream = random.Random(1)

    def __init__(self) -> None:
        self.count, self.cache, self.seen, self.order = 0, {}, set(), deque(maxlen=3)
        self.counts, self.by_index, self.ordered = Counter(), defaultdict(list), OrderedDict()
        self.array, self.tensor, self.objects = np.zeros(3), torch.zeros(3), np.array([[0], None], dtype=object)
        self.torch_stream = torch.Generator().manual_seed(1)
        self.numpy_stream, self.old_stream = np.random.default_rng(1), np.random.RandomState(1)
        self.python_stream = random.Random(1)
        self.pair, self.slotted = Pair([0], "x"), Slotted()
        self.itself, self.method = self, self.step
        inner = [0]

        def closure() -> int:
            inner[0] += 1
            return inner[0]

        self.closure, self.partial = closure, functools.partial(self.step, 1)
        self.numbers, self.local, self.lock = itertools.count(), threading.local(), threading.Lock()
        self.local.handles = [0]
        self.norm = nn.BatchNorm1d(2)

    def step(self, by: int = 1) -> int:
        self.count += by
        return self.count

    def state(self) -> tuple[Any, ...]:
        """Everything of it that can be compared."""
        streams = self.torch_stream.get_state().tolist(), self.numpy_stream.bit_generator.state
        return (
            *(self.count, dict(self.cache), set(self.seen), list(self.order), dict(self.counts), dict(self.by_index)),
            *(list(self.ordered), self.array.tolist(), self.tensor.tolist(), repr(self.objects), repr(streams)),
            *(repr(self.old_stream.get_state()), self.python_stream.getstate(), self.pair, list(self.slotted.count)),
            *(self.closure.__closure__[0].cell_contents[0], repr(self.numbers), list(self.local.handles)),
            *(dict(self.shared_cache), self.class_stream.getstate(), self.norm.running_mean.tolist()),
            *(repr(STREAM.bit_generator.state), RANDOM.getstate(), sorted(vars(self))),
        )

    def __getitem__(self, index: int) -> list[float]:
        self.count += 1
        self.cache[index], self.shared_cache[index], self.opened_late = index, index, True
        self.seen.add(index), self.order.append(index), self.by_index[index].append(1)
        self.counts[index] += 1
        self.ordered[index] = 1
        self.array[0] += 1
        self.tensor[0] += 1
        self.objects[0].append(1)
        self.pair.first[0] += 1
        self.slotted.count[0] += 1
        self.local.handles.append(1)
        self.norm(torch.ones(4, 2))
        assert self.itself is self
        with self.lock:
            return [
                *(self.method(), self.partial(), self.closure(), next(self.numbers)),
                *(float(torch.rand(1, generator=self.torch_stream)), self.numpy_stream.random()),
                *(self.old_stream.rand(), self.python_stream.random(), self.class_stream.random()),
                *(STREAM.random(), RANDOM.random()),
            ]


def test_reading_a_copy_leaves_no_trace_and_reads_what_the_original_would():
    data = Everything()
    before = data.state()
    with private_copy((data, data.step)) as ((copied, step), shared):
        read = [copied[i] for i in range(3)]
        assert step.__self__ is copied
    assert shared == ()
    assert data.state() == before
    assert [data[i] for i in range(3)] == read
    Everything.shared_cache.clear()


NESTED: dict[str, Callable[[Dataset[Any]], Dataset[Any]]] = {
    "subset of a subset": lambda data: Subset(Subset(data, [0, 1, 2]), [0, 1]),
    "concatenation": lambda data: ConcatDataset([TensorDataset(torch.zeros(1)), Subset(data, range(5))]),
}


@pytest.mark.parametrize("kind", NESTED)
def test_nested_data_sets_are_copied_to_the_last(kind: str):
    data = Everything()
    before, nested = data.state(), NESTED[kind](data)
    with private_copy(nested) as (copied, _):
        copied[1]
    assert data.state() == before
    Everything.shared_cache.clear()


def test_what_is_large_is_shared_and_what_is_small_is_not():
    large, small = np.zeros(2**20, dtype=np.uint8), torch.zeros(16)
    entries = [[i] for i in range(dataset_copy.MOST_ENTRIES + 1)]
    content = types.SimpleNamespace(large=large, tensor=torch.zeros(2**18), small=small, entries=entries, text="x" * 99)
    with private_copy(content) as (copied, _):
        assert copied.large is large
        assert copied.tensor is content.tensor
        assert copied.small is not small
        assert copied.entries is not entries
        assert all(a is b for a, b in zip(copied.entries, entries, strict=True))
    many = [torch.zeros(2**17) for _ in range(100)]  # 512 KiB each
    with private_copy(many) as (copied, _):
        assert sum(a is not b for a, b in zip(copied, many, strict=True)) == dataset_copy.MOST_BYTES // 2**19


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell the memory of a process")
def test_memory_does_not_grow_with_the_data():
    arrays = [np.ones(2**17) for _ in range(200)]  # 200 MiB
    data = types.SimpleNamespace(arrays=arrays, images=TensorDataset(torch.ones(50, 2**18)))
    before = resident()
    with private_copy(data):
        assert resident() - before < 10 * 2**20


def test_objects_that_are_kept_stand_in_the_copy_themselves():
    keep = types.SimpleNamespace(state=[0])
    with private_copy({"data": [keep]}, keep=[keep]) as (copied, _):
        assert copied["data"][0] is keep


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "numbers").write_bytes(bytes(range(100)))
    (tmp_path / "packed").write_bytes(gzip.compress(bytes(range(100))))
    return tmp_path / "numbers"


OPENED: dict[str, Callable[[Path], Any]] = {
    "binary": lambda path: open(path, "rb"),
    "raw": lambda path: open(path, "rb", buffering=0),
    "text": lambda path: open(path),
    "packed": lambda path: gzip.open(path.with_name("packed")),
    "deleted": lambda path: _deleted(path),
    "read and written": lambda path: open(path, "r+b"),
}


def _deleted(path: Path) -> Any:
    file = open(path, "rb")
    os.unlink(path)
    return file


@pytest.mark.parametrize("kind", OPENED)
def test_a_file_that_is_open_keeps_its_offset(path: Path, kind: str):
    file = OPENED[kind](path)
    with file:
        file.seek(5)
        with private_copy(types.SimpleNamespace(file=file)) as (copied, shared):
            assert list(copied.file.read(2)) == ([5, 6] if kind != "text" else ["\x05", "\x06"])
            copied.file.seek(50)
        assert shared == ()
        assert file.tell() == 5
        assert not file.closed
        if kind in ("binary", "raw", "text"):
            assert copied.file is not file
            assert copied.file.closed


def test_a_file_that_is_opened_while_the_copy_is_read_is_closed(path: Path):
    class Lazy:
        file = None

        def read(self) -> Any:
            self.file = self.file or open(path, "rb")
            self.base = sqlite3.connect(":memory:")
            return self.file

    lazy = Lazy()
    with private_copy(lazy) as (copied, _):
        file = copied.read()
    assert lazy.file is None
    assert file.closed


def test_what_cannot_be_copied_is_shared_alone_and_told():
    def numbers() -> Iterator[int]:
        yield from range(3)

    base = sqlite3.connect(":memory:")
    content = types.SimpleNamespace(base=base, numbers=numbers(), counts=[0], lock=threading.RLock())
    with private_copy(content) as (copied, shared):
        assert copied.base is base
        assert copied.numbers is content.numbers
        assert copied.counts is not content.counts
    assert shared == ("Connection", "generator")
    base.close()


def test_a_copy_that_dies_closes_nothing_of_the_original(tmp_path: Path):
    class Closing(Dataset[Any]):
        def __init__(self) -> None:
            self.base, self.memory = sqlite3.connect(":memory:"), io.BytesIO(bytes(2**21))
            self.named = tempfile.NamedTemporaryFile(dir=tmp_path)
            with zipfile.ZipFile(tmp_path / "packed", "w") as packed:
                packed.writestr("name", "content")
            self.packed = zipfile.ZipFile(io.BytesIO((tmp_path / "packed").read_bytes() + bytes(0)))

        def __del__(self) -> None:
            self.base.close()
            self.memory.close()

    data = Closing()
    with private_copy(data) as (copied, _):
        assert copied.packed.read("name") == b"content"
    del copied
    gc.collect()
    assert data.base.execute("select 1").fetchall() == [(1,)]
    assert data.packed.read("name") == b"content"
    assert not data.memory.closed
    assert Path(data.named.name).exists()
    data.named.close()


def test_a_chain_that_is_too_long_is_not_copied():
    chain: list[Any] = []
    for _ in range(10_000):
        chain = [chain]
    with private_copy(chain) as (copied, shared):
        assert copied is chain
    assert shared == ("list",)


def test_a_data_set_that_says_how_it_is_copied_is_copied_so():
    class Pickled:
        def __init__(self) -> None:
            self.handle, self.counts = threading.Lock(), [0]

        def __getstate__(self) -> dict[str, Any]:
            return vars(self) | {"handle": None}

    class Copied:
        def __init__(self) -> None:
            self.large, self.count = np.zeros(2**20), [0]

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            import copy

            made = Copied.__new__(Copied)
            made.__dict__.update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
            return made

    with private_copy([Pickled(), first := Copied()]) as ((pickled, copied), _):
        assert pickled.handle is None
        assert copied.large is first.large
        assert copied.count is not first.count


READS: Counter[int] = Counter()
TOTAL = 0


class Owner:
    reads = 0


class Tallied(Dataset[Any]):
    """Counts its reads wherever a number can be kept, and caches them."""

    reads = 0

    def __init__(self, path: Path) -> None:
        self.owner = Owner()
        self.reference = weakref.ref(self.owner)
        self.memory = np.memmap(path, "float32", "r+", shape=(4,))
        self.closure = counting()
        self.cached = functools.lru_cache(maxsize=4)(self._read)

    def __getitem__(self, index: int) -> int:
        return self.cached(index)

    def _read(self, index: int) -> int:
        global TOTAL
        TOTAL += 1
        READS[index] += 1
        Tallied.reads += 1
        self.reference().reads += 1
        self.memory[0] += 1
        return self.closure()

    def state(self) -> Any:
        held = TOTAL, dict(READS), Tallied.reads, self.owner.reads, float(self.memory[0])
        return *held, self.cached.cache_info(), self.closure.__closure__[0].cell_contents


def counting() -> Callable[[], int]:
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return count

    return step


def test_numbers_that_reading_counts_up_are_as_before(tmp_path: Path):
    np.zeros(4, "float32").tofile(tmp_path / "memory")
    data = Tallied(tmp_path / "memory")
    data[0]
    before = data.state()
    with private_copy(data) as (copied, shared):
        assert [copied[1], copied[2]] == [2, 3]
    assert shared == ()
    assert data.state() == before


@functools.lru_cache
def drawn(index: int) -> float:
    return random.random()


class Caching(Dataset[Any]):
    """Draws once for each sample, in a function and in a method."""

    @functools.lru_cache  # noqa: B019  # as users write it
    def own(self, index: int) -> float:
        return random.random()

    def __getitem__(self, index: int) -> float:
        return drawn(index) + self.own(index)


def test_caches_of_results_that_were_empty_are_empty_again():
    drawn.cache_clear()
    dataset = Caching()
    with private_copy(dataset) as (copied, shared):
        assert copied[0] == copied[0]
        assert drawn.cache_info().currsize == 1
    assert shared == ()
    assert drawn.cache_info() == Caching.own.cache_info() == (0, 0, 128, 0)


class Delegating(Dataset[Any]):
    """What it does not have itself it asks of what it wraps."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.reads = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return self.inner[index]


def test_a_data_set_that_delegates_to_another_is_copied():
    dataset = Delegating(TensorDataset(torch.arange(3.0)))
    with private_copy(dataset) as (copied, shared):
        assert copied[1] == (torch.tensor(1.0),)
        assert (copied.reads, copied.tensors[0].shape) == (1, (3,))
    assert (dataset.reads, shared) == (0, ())


def test_a_file_that_is_written_to_is_told(tmp_path: Path):
    with (tmp_path / "reads.txt").open("a") as file:
        dataset = TensorDataset(torch.arange(3.0))
        dataset.file = file
        with private_copy(dataset) as (copied, shared):
            assert copied.file is file
    assert shared == ("TextIOWrapper",)


def test_a_memory_map_is_put_back_where_it_stood(tmp_path: Path):
    (tmp_path / "bytes").write_bytes(bytes(range(20)))
    with (tmp_path / "bytes").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        mapped.seek(5)
        with private_copy([mapped]) as (copied, shared):
            assert copied[0].read(2) == bytes([5, 6])
        assert mapped.tell() == 5
    assert shared == ("mmap",)
