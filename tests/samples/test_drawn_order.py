from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from lightning_gengap.samples.batches import read_batch
from lightning_gengap.samples.drawn_order import in_drawn_order, loader_in_drawn_order
from lightning_gengap.samples.reader import SampleReader

COUNT = 300
INPUTS, TARGETS = torch.arange(COUNT).float()[:, None], torch.arange(COUNT) % 3
FIXED = torch.tensor([7.0, 8.0])


def order(samples: int) -> list[int]:
    return SampleReader(samples).draw(range(COUNT))


@pytest.mark.parametrize("samples", [1, 130, COUNT, 1000])
@pytest.mark.parametrize("size", [1, 7, 128, COUNT])
def test_batches_are_joined_and_drawn_from(samples: int, size: int):
    given = [read_batch((x, y)) for x, y in zip(INPUTS.split(size), TARGETS.split(size), strict=True)]
    batches = in_drawn_order(given, SampleReader(samples))
    drawn = torch.cat([batch.content[0] for batch in batches])[:, 0].long()
    assert drawn.tolist() == order(samples)
    assert torch.equal(torch.cat([batch.targets for batch in batches]), drawn % 3)


def test_what_belongs_to_no_sample_stays():
    given = [
        read_batch({"x": x, "y": y, "scale": FIXED}) for x, y in zip(INPUTS.split(70), TARGETS.split(70), strict=True)
    ]
    for batch in in_drawn_order(given, SampleReader(1000)):
        assert torch.equal(batch.content["scale"], FIXED)


def test_batches_of_different_shapes_keep_their_order():
    ragged = [read_batch((torch.ones(10, width), torch.arange(10) % 2)) for width in (2, 3, 4)]
    assert in_drawn_order(ragged, SampleReader(15)) == tuple(ragged[:2])


class Lists(TensorDataset):
    """Takes a list of indices."""

    def __getitem__(self, index: Any) -> Any:
        assert isinstance(index, list)
        return super().__getitem__(torch.tensor(index))


def test_a_loader_reads_and_collates_as_before():
    doubling = DataLoader(
        TensorDataset(INPUTS, TARGETS), 10, collate_fn=lambda items: (torch.stack([x for x, _ in items]) * 2, items)
    )
    whole = DataLoader(
        Lists(INPUTS, TARGETS), batch_size=None, sampler=BatchSampler(SequentialSampler(range(COUNT)), 9, False)
    )
    for loader, factor in ((doubling, 2), (whole, 1)):
        batches = list(loader_in_drawn_order(loader, range(COUNT), SampleReader(1000)))
        assert (torch.cat([batch[0] for batch in batches])[:, 0] / factor).long().tolist() == order(1000)
        assert len(batches) == 3
