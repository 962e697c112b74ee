from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    TensorDataset,
)

from lightning_gengap.errors import BatchError, DataError
from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.first_batches import FirstBatches
from lightning_gengap.samples.reader import SampleReader, Samples
from tests.lightning_models import blobs

READING = SampleReader(samples=1024)


def numbered(examples: int = 40) -> TensorDataset:
    """Sample i is the number i, so that what was read tells its index; classes alternate."""
    return TensorDataset(torch.arange(examples).float()[:, None], torch.arange(examples) % 2)


def read(samples: Samples | None) -> list[int]:
    """The indices of numbered samples, in the order read."""
    assert samples is not None
    return [int(value) for batch in samples.batches for value in batch.content[0][:, 0]]


def drawn(loader: Any, **arguments: Any) -> list[int]:
    return sorted(read(draw_samples(loader, READING, **arguments)))


def test_the_draw_is_seeded_and_without_repetition():
    loader = DataLoader(numbered(200), shuffle=True)
    first, again, other = (read(draw_samples(loader, SampleReader(50, seed))) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(set(first)) == 50


def test_samples_are_read_in_chunks():
    samples = draw_samples(DataLoader(numbered(300)), READING)
    assert samples is not None
    assert [len(batch.targets) for batch in samples.batches] == [128, 128, 44]
    assert len(samples) == 300


def test_the_loaders_own_collate_function_is_used():
    def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([x + 100 for x, _ in items]), torch.stack([y for _, y in items])

    assert min(drawn(DataLoader(numbered(), collate_fn=collate))) == 100


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return index + 0.1 * torch.rand(1), torch.tensor(index % 2)


def test_augmentation_is_noticed_in_the_data_set_and_on_the_device():
    samples = draw_samples(DataLoader(Augmented()), READING)
    assert samples is not None
    assert samples.augmented
    place = SampleReader(1024, place=lambda batch: (batch[0] + torch.rand(1), batch[1]))
    samples = draw_samples(DataLoader(numbered()), place)
    assert samples is not None
    assert samples.augmented


def test_a_single_class_is_refused():
    one = TensorDataset(torch.zeros(30, 1), torch.full((30,), 3))
    with pytest.raises(DataError, match=r"got 30 samples, all of class 3; expected two classes or more. Shuffle"):
        draw_samples(DataLoader(one), READING)


def test_an_unreadable_batch_is_refused():
    with pytest.raises(BatchError, match="batch: got a list of 1 items; expected a pair"):
        draw_samples(DataLoader(TensorDataset(torch.zeros(30, 1))), READING)


def test_no_more_batches_are_taken_than_enough():
    taken = SampleReader(25).take(iter(DataLoader(blobs(64), batch_size=10)))
    assert [len(batch.targets) for batch in taken] == [10, 10, 10]


def test_first_batches_are_copied_up_to_enough():
    first = FirstBatches(SampleReader(20))
    for start in range(0, 40, 10):
        batch = [torch.full((10, 1), float(start)), torch.arange(10) % 2]
        first.add(batch)
        batch[0].zero_()
    assert read(first.checked()) == [0] * 10 + [10] * 10
    assert first.checked().train_samples is None


def test_first_batches_of_one_class_are_refused_at_the_end_only():
    first = FirstBatches(SampleReader(20))
    first.add((torch.zeros(1, 1), torch.tensor([2])))
    assert len(first.samples()) == 1
    with pytest.raises(DataError, match="all of class 2"):
        first.checked()
    with pytest.raises(DataError, match="got no batch"):
        FirstBatches(SampleReader(20)).checked()
