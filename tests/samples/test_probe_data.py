"""Which samples are read where the user gives an un-augmented view."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from lightning_gengap.errors import BatchError, DataError, TargetError
from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.reader import SampleReader
from tests.lightning_models import Stream
from tests.samples.test_drawing import READING, Augmented, drawn, numbered, read

CLEAN = TensorDataset(torch.arange(40).float()[:, None] + 500, torch.arange(40) % 2)
HELD_OUT = DataLoader(Augmented(), sampler=SubsetRandomSampler(range(10, 20)))


def test_probe_data_of_the_same_length_are_read_at_the_trainable_indices():
    for probe_data in (CLEAN, DataLoader(CLEAN), DataLoader(CLEAN, sampler=SubsetRandomSampler(range(3)))):
        samples = draw_samples(HELD_OUT, READING, probe_data)
        assert sorted(read(samples)) == list(range(510, 520))
        assert samples is not None
        assert (samples.train_samples, samples.augmented) == (10, False)


def test_probe_data_of_another_length_are_read_as_their_own_sampler_says():
    loader = DataLoader(numbered(15))
    assert drawn(loader, probe_data=CLEAN) == list(range(500, 540))
    assert drawn(loader, probe_data=DataLoader(CLEAN, sampler=SubsetRandomSampler([1, 2]))) == [501, 502]


def test_probe_data_may_be_batches_or_a_stream():
    batches = [(torch.full((4, 1), 7.0), torch.tensor([0, 1, 0, 1]))] * 3
    assert len(drawn(HELD_OUT, probe_data=batches)) == 12
    samples = draw_samples(HELD_OUT, SampleReader(40), DataLoader(Stream(), batch_size=16))
    assert samples is not None
    assert (len(samples), samples.train_samples) == (48, 10)


def test_probe_data_for_training_data_without_length():
    samples = draw_samples(DataLoader(Stream()), READING, CLEAN)
    assert samples is not None
    assert (len(samples), samples.train_samples) == (40, None)


def test_augmented_probe_data_are_noticed():
    samples = draw_samples(DataLoader(numbered()), READING, Augmented())
    assert samples is not None
    assert samples.augmented


@pytest.mark.parametrize(
    ("probe_data", "error", "message"),
    [
        (3, BatchError, "probe_data: got int; expected a dataset, a DataLoader or an iterable of batches"),
        ([], DataError, "training samples: got no batch; expected at least one labelled sample"),
        (numbered(0), DataError, "got probe_data of length 0"),
        ([(torch.zeros(4, 1), torch.zeros(4))], TargetError, "a regression target"),
    ],
)
def test_unusable_probe_data_are_refused(probe_data: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        draw_samples(DataLoader(numbered()), READING, probe_data)
