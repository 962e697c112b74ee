"""How the samples are drawn and read, from training data or from an un-augmented view of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, TensorDataset

from lightning_gengap.errors import BatchError, DataError, TargetError
from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.reader import SampleReader
from tests.lightning_models import blobs
from tests.samples.numbered import READER, drawn, numbered, numbers
from tests.streams import Stream


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return index + 0.1 * torch.rand(1), torch.tensor(index % 2)


def added(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A collate function of the user's own."""
    return torch.stack([x + 100 for x, _ in items]), torch.stack([y for _, y in items])


AUGMENTED_ON_DEVICE = SampleReader(1024, place=lambda batch: (batch[0] + torch.rand(1), batch[1]))
CLEAN = TensorDataset(torch.arange(40).float()[:, None] + 500, torch.arange(40) % 2)
HELD_OUT = DataLoader(Augmented(), sampler=SubsetRandomSampler(range(10, 20)))
BATCHES = [(torch.full((4, 1), 7.0), torch.tensor([0, 1, 0, 1]))] * 3


def test_the_draw_is_seeded_and_without_repetition():
    loader = DataLoader(numbered(200), shuffle=True)
    first, again, other = (numbers(drawn(loader, SampleReader(50, seed))) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(set(first)) == 50


def test_samples_are_read_in_chunks():
    samples = drawn(DataLoader(numbered(300)))
    assert [len(batch.targets) for batch in samples.batches] == [128, 128, 44]
    assert len(samples) == 300


@pytest.mark.parametrize(
    ("loader", "reader", "probe_data", "augmented"),
    [
        (DataLoader(numbered()), READER, None, False),
        (DataLoader(Augmented()), READER, None, True),
        (DataLoader(numbered()), AUGMENTED_ON_DEVICE, None, True),
        (DataLoader(numbered()), READER, Augmented(), True),
        (HELD_OUT, READER, CLEAN, False),
    ],
    ids=["clean", "in the data set", "on the device", "in the probe data", "not in the probe data"],
)
def test_augmentation_is_noticed(loader: Any, reader: SampleReader, probe_data: Any, augmented: bool):
    assert drawn(loader, reader, probe_data=probe_data).augmented == augmented


@pytest.mark.parametrize(
    ("loader", "probe_data", "copied"),
    [
        (DataLoader(numbered()), Augmented(), False),
        (HELD_OUT, CLEAN, True),
        (HELD_OUT, None, True),
        (DataLoader(Stream(blobs())), CLEAN, None),
    ],
)
def test_whether_training_reads_copies_does_not_depend_on_the_view(loader: Any, probe_data: Any, copied: bool | None):
    assert drawn(loader, probe_data=probe_data).copied is copied


FEW = SubsetRandomSampler([1, 2])
VIEWS: dict[str, tuple[Any, Any, list[int], int | None]] = {
    # What is trained on, the view, the numbers read, and how many samples are trained on.
    "none": (DataLoader(numbered(), collate_fn=added), None, list(range(100, 140)), 40),
    "a data set of the same length": (HELD_OUT, CLEAN, list(range(510, 520)), 10),
    "its loader": (HELD_OUT, DataLoader(CLEAN), list(range(510, 520)), 10),
    "its loader with another sampler": (HELD_OUT, DataLoader(CLEAN, sampler=FEW), list(range(510, 520)), 10),
    "a data set of another length": (DataLoader(numbered(15)), CLEAN, list(range(500, 540)), 15),
    "its loader with a sampler": (DataLoader(numbered(15)), DataLoader(CLEAN, sampler=FEW), [501, 502], 15),
    "batches": (HELD_OUT, BATCHES, [7] * 12, 10),
    "a data set for a stream": (DataLoader(Stream(blobs())), CLEAN, list(range(500, 540)), None),
}


@pytest.mark.parametrize(("loader", "probe_data", "expected", "train_samples"), VIEWS.values(), ids=VIEWS)
def test_which_samples_of_a_view_are_read(loader: Any, probe_data: Any, expected: list[int], train_samples: int | None):
    samples = drawn(loader, probe_data=probe_data)
    assert sorted(numbers(samples)) == expected
    assert samples.train_samples == train_samples


@pytest.mark.parametrize(
    "sample",
    [
        lambda row, target: (row, target),
        lambda row, target: (row, int(target)),
        lambda row, target: {"x": row, "y": target.numpy()[()]},
    ],
    ids=["pairs", "pairs with numbers", "dictionaries"],
)
def test_a_view_may_be_a_list_of_samples(sample: Any):
    rows = [sample(*pair) for pair in blobs()]
    samples = drawn(HELD_OUT, SampleReader(40), probe_data=rows)
    assert [len(batch.targets) for batch in samples.batches] == [40]
    assert samples.train_samples == 10


def test_samples_that_would_not_fit_are_refused_after_the_first_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    data = TensorDataset(torch.randn(400, 50), torch.arange(400) % 2)
    loader, more = DataLoader(data, batch_size=8), 272 * (50 * 4 + 8)
    for left, fits in ((more * 4 / 3 + 1, True), (more * 4 / 3 - 1, False)):
        monkeypatch.setattr("lightning_gengap.samples.drawing.available", lambda left=left: left)
        if fits:
            assert len(draw_samples(loader, SampleReader(400))) == 400
            continue
        with pytest.raises(MemoryError, match="400 samples take 0 MiB more"):
            draw_samples(loader, SampleReader(400))
    monkeypatch.setattr("lightning_gengap.samples.drawing.available", lambda: None)
    assert len(draw_samples(loader, SampleReader(400))) == 400


def test_a_view_may_be_a_stream():
    samples = drawn(HELD_OUT, SampleReader(40), probe_data=DataLoader(Stream(blobs()), batch_size=16))
    assert (len(samples), samples.train_samples) == (48, 10)


@pytest.mark.parametrize(
    ("loader", "probe_data", "error", "message"),
    [
        (
            DataLoader(TensorDataset(torch.zeros(30, 1), torch.full((30,), 3))),
            None,
            DataError,
            "got 30 samples, all of class 3; expected two classes or more. Shuffle",
        ),
        (
            DataLoader(TensorDataset(torch.zeros(30, 1))),
            None,
            BatchError,
            "batch: got a list of 1 items; expected a pair",
        ),
        (
            DataLoader(numbered()),
            3,
            BatchError,
            "probe_data: got int; expected a dataset, a DataLoader or an iterable of batches",
        ),
        (
            DataLoader(numbered()),
            [],
            DataError,
            "training samples: got no batch; expected at least one labelled sample",
        ),
        (DataLoader(numbered()), numbered(0), DataError, "got probe_data of length 0"),
        (DataLoader(numbered()), [(torch.zeros(4, 1), torch.zeros(4))], TargetError, "a regression target"),
    ],
)
def test_unusable_data_are_refused(loader: Any, probe_data: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        drawn(loader, probe_data=probe_data)
