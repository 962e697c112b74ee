from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_gengap.errors import DataError
from lightning_gengap.samples.first_batches import FirstBatches
from lightning_gengap.samples.reader import SampleReader
from tests.samples.numbered import numbered, numbers


def test_no_more_batches_are_taken_than_enough():
    taken = SampleReader(25).take(iter(DataLoader(numbered(64), batch_size=10)))
    assert [len(batch.targets) for batch in taken] == [10, 10, 10]


def test_first_batches_are_copied_up_to_enough():
    first = FirstBatches(SampleReader(20))
    for start in range(0, 40, 10):
        batch = [torch.full((10, 1), float(start)), torch.arange(10) % 2]
        first.add(batch)
        batch[0].zero_()
    assert numbers(first.checked()) == [0] * 10 + [10] * 10
    assert first.checked().train_samples is None


def test_first_batches_of_one_class_are_refused_at_the_end_only():
    first = FirstBatches(SampleReader(20))
    first.add((torch.zeros(1, 1), torch.tensor([2])))
    assert len(first.samples()) == 1
    with pytest.raises(DataError, match="all of class 2"):
        first.checked()
    with pytest.raises(DataError, match="got no batch"):
        FirstBatches(SampleReader(20)).checked()
