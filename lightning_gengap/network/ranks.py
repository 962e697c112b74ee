"""Several processes that measure one network: each computes a part of the chunks, and all get the rows of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, distributed

from lightning_gengap.errors import Undefined

_TYPES = (torch.float32, torch.float64, torch.int64, torch.uint8)


class AnotherRankFailed(Exception):  # noqa: N818
    """This rank cannot go on, because another one failed; that one knows the cause."""


class _State(IntEnum):
    GATHERING = 0
    DONE = 1  # with this step
    UNDEFINED = 2  # in this step
    FAILED = 3  # in this step
    GONE = 4  # out of the measurement


@dataclass(frozen=True)
class Ranks:
    """The ranks of one measurement. None ever waits for one that does something else, whatever fails where.

    Whatever they exchange begins with a header of one shape, by which each says what it does. One that has ended its
    step, or the measurement, answers the others until all have. Who gathers rows, and hears that another rank does
    not, stops its step.

    Attributes:
        rank: of this process.
        size: the number of ranks.
        exchange: gives the tensors of all ranks, where all call it with tensors of one shape and type.
    """

    rank: int
    size: int
    exchange: Callable[[Tensor], list[Tensor]]

    @classmethod
    def of_processes(cls, device: torch.device) -> Ranks | None:
        """The processes of torch's default group; None where there is one process only.

        `device` is that of the training, for backends that cannot exchange tensors of the CPU.
        """
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return None
        backend = str(distributed.get_backend_config())
        on = torch.device("cpu") if any(name in backend for name in ("gloo", "mpi", "ucc")) else device
        size = distributed.get_world_size()

        def exchange(tensor: Tensor) -> list[Tensor]:
            own = tensor.to(on).contiguous()
            found = [torch.empty_like(own) for _ in range(size)]
            distributed.all_gather(found, own)
            return [each.to(tensor.device) for each in found]

        return cls(distributed.get_rank(), size, exchange)

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step that all ranks take, and end, together. It fails on all where it fails on one.

        Raises:
            AnotherRankFailed: it failed on another rank, and not on this one.
        """
        try:
            yield
        except Undefined:
            self._end_step(_State.UNDEFINED)
            raise
        except Exception:
            self._end_step(_State.FAILED)
            raise
        self._end_step(_State.DONE)

    def leave(self) -> None:
        """End the measurement. Every rank calls it, wherever it failed, and none goes on before all have."""
        while any(state != _State.GONE for state, *_ in self._headers(_State.GONE)):
            pass

    def gather(self, rows: Tensor) -> list[Tensor]:
        """The rows of every rank, in a step. Their numbers may differ, zero included; all else is of one kind.

        Raises:
            AnotherRankFailed: another rank is not there, or its rows are of another kind.
            Undefined: there is no such value on another rank.
        """
        flat = rows.detach().flatten(1) if rows.ndim > 1 else rows.detach()[:, None]
        headers = self._headers(_State.GATHERING, len(flat), flat.shape[1], _TYPES.index(flat.dtype))
        states = {state for state, *_ in headers}
        if _State.UNDEFINED in states and states <= {_State.GATHERING, _State.UNDEFINED}:
            raise Undefined("it does not exist on another rank")
        if states != {_State.GATHERING} or len({tuple(kind) for _, _, *kind in headers}) > 1:
            raise AnotherRankFailed("another rank failed.")
        counts = [count for _, count, *_ in headers]
        padded = flat.new_zeros(max(counts), flat.shape[1])
        padded[: len(flat)] = flat
        found = self.exchange(padded) if padded.numel() else [padded] * self.size
        return [part[:count].reshape(count, *rows.shape[1:]) for part, count in zip(found, counts, strict=True)]

    def places(self, chunks: int, rank: int | None = None) -> range:
        """The chunks of a rank, of so many; those of this one by default."""
        return range(self.rank if rank is None else rank, chunks, self.size)

    def computed(self, sizes: Sequence[int], rows_of: Callable[[int], Tensor]) -> Tensor:
        """The rows of all chunks, in their order, each computed by one rank.

        Every rank computes as many chunks as any other, because a network may itself wait for the other ranks. What
        is computed twice is dropped.

        Args:
            sizes: of the chunks, one at least.
            rows_of: the rows of the chunk at this place, as many as its size.
        """
        found = [rows_of(place) for place in self.places(len(sizes))]
        if self.is_short(len(sizes)):
            found.append(rows_of(0)[:0])
        return self.in_order(sizes, torch.cat(found))

    def is_short(self, chunks: int) -> bool:
        """Whether another rank has more of so many chunks."""
        return len(self.places(chunks)) < len(self.places(chunks, 0))

    def in_order(self, sizes: Sequence[int], rows: Tensor) -> Tensor:
        """The rows of all chunks, in their order, of which this rank has those of its own."""
        chunks: dict[int, Tensor] = {}
        for rank, found in enumerate(self.gather(rows)):
            own = self.places(len(sizes), rank)
            chunks |= zip(own, found.split([sizes[place] for place in own]), strict=True)
        return torch.cat([chunks[place] for place in range(len(sizes))])

    def agree(self, rows: Tensor) -> bool:
        """Whether all ranks have the same, in a step."""
        first, *others = self.gather(rows)
        return all(torch.equal(first, other) for other in others)

    def _end_step(self, own: _State) -> None:
        states = {_State.GATHERING.value}
        while _State.GATHERING in states:
            states = {state for state, *_ in self._headers(own)}
        if own != _State.FAILED and states & {_State.FAILED, _State.GONE}:
            raise AnotherRankFailed("another rank failed.")

    def _headers(self, state: _State, rows: int = 0, numbers: int = 0, kind: int = 0) -> list[Any]:
        """What every rank does: its state, and of rows how many they are, of how many numbers of which type."""
        header = torch.tensor([int(state), rows, numbers, kind])
        return torch.stack(self.exchange(header)).tolist()
