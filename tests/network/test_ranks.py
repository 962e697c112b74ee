"""What ranks exchange, in threads: the rows of all in order, and nobody waits for one that fails or does otherwise."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_gengap.derivatives.jacobian import differentiable_attention
from lightning_gengap.errors import Undefined
from lightning_gengap.network.ranks import AnotherRankFailed, Ranks


def on_ranks(size: int, run: Callable[[Ranks], Any]) -> list[Any]:
    """What `run` returns or raises on each rank."""
    barrier, posted = Barrier(size, timeout=10), [torch.empty(0)] * size

    def exchange_of(rank: int) -> Callable[[Tensor], list[Tensor]]:
        def exchange(tensor: Tensor) -> list[Tensor]:
            posted[rank] = tensor
            barrier.wait()
            found = list(posted)
            barrier.wait()
            assert len({(each.shape, each.dtype) for each in found}) == 1  # as a backend wants them
            return found

        return exchange

    def safe(rank: int) -> Any:
        ranks = Ranks(rank, size, exchange_of(rank))
        try:
            return run(ranks)
        except Exception as error:
            return error
        finally:
            ranks.leave()

    # Threads share what a measure switches off, as ranks do not: it is off for all of them until the last one is done.
    with differentiable_attention(), ThreadPoolExecutor(size) as pool:
        return list(pool.map(safe, range(size)))


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("sizes", [[4], [4, 4, 1], [3, 1, 2, 5, 1]])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_all_get_the_rows_of_all_chunks_in_order(ranks: int, sizes: list[int], shape: tuple[int, ...]):
    whole = torch.randn(sum(sizes), *shape, dtype=torch.float64)
    computed: list[list[int]] = [[] for _ in range(ranks)]

    def run(own: Ranks) -> Tensor:
        def rows_of(place: int) -> Tensor:
            computed[own.rank].append(place)
            return whole.split(sizes)[place]

        with own.step():
            return own.computed(sizes, rows_of)

    assert all(torch.equal(found, whole) for found in on_ranks(ranks, run))
    most = -(-len(sizes) // ranks)
    assert [len(places) for places in computed] == [most] * ranks
    assert {place for places in computed for place in places} == set(range(len(sizes)))


def test_numbers_of_every_kind_that_is_exchanged_stay_as_they_are():
    def run(own: Ranks) -> list[list[Tensor]]:
        with own.step():
            return [own.gather(torch.arange(own.rank * 3).to(kind)) for kind in (torch.float32, torch.int64)]

    for found in on_ranks(3, run):
        assert [[rows.tolist() for rows in parts] for parts in found] == [[[], [0, 1, 2], [0, 1, 2, 3, 4, 5]]] * 2


def test_nothing_is_gathered_where_no_rank_has_rows():
    def run(own: Ranks) -> list[Tensor]:
        with own.step():
            return own.gather(torch.empty(0, 3))

    assert [[tuple(rows.shape) for rows in found] for found in on_ranks(2, run)] == [[(0, 3)] * 2] * 2


@pytest.mark.parametrize("at", ["before", "between", "behind"])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_step_that_fails_on_one_rank_fails_on_all_and_the_next_one_does_not(at: str, failing: int):
    def run(own: Ranks) -> tuple[str, list[float]]:
        def fail_at(place: str) -> None:
            if own.rank == failing and place == at:
                raise ArithmeticError("broken")

        try:
            with own.step():
                fail_at("before")
                own.gather(torch.ones(1))
                fail_at("between")
                own.gather(torch.ones(2))
                fail_at("behind")
        except (ArithmeticError, AnotherRankFailed) as error:
            said = type(error).__name__
        with own.step():
            return said, [float(rows) for rows in own.gather(torch.full((1,), float(own.rank)))]

    for rank, (said, found) in enumerate(on_ranks(3, run)):
        assert said == ("ArithmeticError" if rank == failing else "AnotherRankFailed")
        assert found == [0, 1, 2]


def test_who_goes_leaves_nobody_waiting():
    def run(own: Ranks) -> list[str]:
        if own.rank == 1:
            raise ArithmeticError("broken")
        said = []
        for _ in range(2):
            try:
                with own.step():
                    own.gather(torch.ones(1))
            except AnotherRankFailed as error:
                said.append(str(error))
        return said

    first, second, third = on_ranks(3, run)
    assert first == third == ["another rank failed."] * 2
    assert isinstance(second, ArithmeticError)


def test_a_value_that_one_rank_finds_undefined_is_undefined_where_it_is_gathered():
    def run(own: Ranks) -> str:
        with own.step():
            if own.rank == 0:
                raise Undefined("no room")
            own.gather(torch.ones(1))
        return "measured"

    first, second = on_ranks(2, run)
    assert (first.reason, second.reason) == ("no room", "it does not exist on another rank")


def test_a_rank_that_gathers_what_another_one_has_does_not_wait():
    def run(own: Ranks) -> None:
        with own.step():
            if own.rank == 1:
                own.gather(torch.ones(1))

    assert [type(found) for found in on_ranks(2, run)] == [AnotherRankFailed] * 2


def test_rows_of_another_kind_are_refused():
    def run(own: Ranks) -> None:
        with own.step():
            own.gather(torch.ones(1, own.rank + 1))

    assert [type(found) for found in on_ranks(2, run)] == [AnotherRankFailed] * 2


def test_what_all_have_alike_is_agreed_on():
    def run(own: Ranks) -> tuple[bool, bool]:
        with own.step():
            return own.agree(torch.ones(2)), own.agree(torch.full((2,), float(own.rank)))

    assert on_ranks(2, run) == [(True, False)] * 2


def test_one_process_has_no_ranks():
    assert Ranks.of_processes(torch.device("cpu")) is None
