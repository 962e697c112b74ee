"""The training samples that are not monitored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler

from lightning_gengap.samples.others import Others
from lightning_gengap.samples.reader import CHUNK, SampleReader
from tests.lightning_models import blobs
from tests.samples.numbered import drawn, numbered, numbers
from tests.streams import Stream


def others_of(loader: DataLoader, monitored: int, seed: int = 3) -> Others:
    found = drawn(loader, SampleReader(monitored, seed)).others
    assert found is not None
    return found


def read(others: Others, most: int) -> list[int]:
    return [int(value) for batch in others.batches(most) for value in batch.content[0][:, 0]]


def test_they_follow_the_monitored_ones_in_one_order():
    loader = DataLoader(numbered(300), shuffle=True)
    order = numbers(drawn(loader, SampleReader(300, 3)))
    others = others_of(loader, 100)
    assert len(others) == 200
    assert read(others, 150) == order[100:250]
    assert read(others, 10**9) == order[100:]
    assert [len(batch.targets) for batch in others.batches(150)] == [CHUNK, 150 - CHUNK]


def test_only_what_is_trained_on_is_read():
    indices = list(range(5, 25))
    others = others_of(DataLoader(numbered(40), sampler=SubsetRandomSampler(indices)), 12)
    assert set(read(others, 100)) < set(indices)
    assert len(read(others, 100)) == len(others) == 8


@pytest.mark.parametrize("monitored", [40, 1000])
def test_where_all_are_monitored_there_are_none(monitored: int):
    others = others_of(DataLoader(numbered(40)), monitored)
    assert len(others) == 0
    assert read(others, 100) == []


def test_of_streams_and_views_there_are_none():
    assert drawn(DataLoader(numbered(40)), SampleReader(8), probe_data=numbered(40)).others is None
    assert drawn(DataLoader(numbered(40)), probe_data=DataLoader(Stream(blobs()))).others is None


class Counted(Dataset[tuple[Tensor, Tensor]]):
    """Draws a random number and counts with every sample."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        return index + 0 * torch.rand(1), torch.tensor(index % 2)


def test_the_data_set_and_the_random_streams_keep_no_trace():
    data = Counted()
    others = others_of(DataLoader(data), 10)
    before = torch.get_rng_state()
    assert len(read(others, 100)) == 30
    assert data.reads == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_the_guard_is_around_the_reading_also_where_it_stops_early():
    events: list[str] = []

    @contextmanager
    def guard() -> Iterator[None]:
        events.append("in")
        try:
            yield
        finally:
            events.append("out")

    batches = replace(others_of(DataLoader(numbered(400)), 10), guard=guard).batches(1000)
    assert events == []
    next(batches)
    assert events == ["in"]
    batches.close()
    assert events == ["in", "out"]


def test_batches_are_settled_like_those_of_the_monitored_ones():
    others = replace(others_of(DataLoader(numbered(40)), 30), settle=lambda batch: replace(batch, no_inputs="seen"))
    assert [batch.no_inputs for batch in others.batches(10)] == ["seen"]
