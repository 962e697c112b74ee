"""The class of every sample, and how many inputs are read for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_gengap.errors import DataError
from lightning_gengap.samples.labels import labels_of
from tests.streams import Stream
from tests.tally import emptied

READ: SimpleQueue[int] = SimpleQueue()
LABELS = [0, 2, 1, 2, 0, 1, 1, 1, 2, 0] * 20


class Listed(Dataset[Any]):
    """Holds its labels as data sets of torchvision do, and tells what is read."""

    def __init__(self, labels: Any = LABELS, change: Callable[[int], Any] = int, name: str = "targets") -> None:
        setattr(self, name, labels)
        self.own, self.change = list(LABELS), change

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, index: int) -> Any:
        READ.put(index)
        random.random()
        return torch.zeros(2), self.change(self.own[index])


class Named(Listed):
    def __getitem__(self, index: int) -> Any:
        return dict(zip(("image", "label"), super().__getitem__(index), strict=True))


@pytest.fixture(autouse=True)
def _no_reads_yet():
    emptied(READ)


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize("held", [LABELS, np.array(LABELS), torch.tensor(LABELS), torch.tensor(LABELS)[:, None]])
def test_what_a_data_set_holds_is_checked_by_few_reads(held: Any, name: str):
    assert labels_of(Listed(held, name=name)).tolist() == LABELS
    read = emptied(READ)
    assert 3 <= len(read) < 25
    assert {LABELS[index] for index in read} == {0, 1, 2}


def test_labels_are_found_through_subsets_and_joined_data_sets():
    tensors = TensorDataset(torch.zeros(200, 2), torch.tensor(LABELS))
    joined = ConcatDataset([Subset(Listed(), [3, 1, 2, 9]), tensors])
    assert labels_of(Subset(joined, [0, 1, 2, 3, 5])).tolist() == [2, 2, 1, 0, LABELS[1]]
    assert set(emptied(READ)) <= {3, 1, 2, 9}


@pytest.mark.parametrize(
    "dataset",
    [
        Listed(change=lambda label: int(label == 2)),  # as behind a transform of the labels
        Listed(["a"] * 200, change=lambda label: int(label == 2)),
        Listed(LABELS[:-1], change=lambda label: int(label == 2)),
        Listed([LABELS, LABELS[1:]], change=lambda label: torch.tensor(label == 2)),
        Named(None, change=lambda label: np.int64(label == 2)),
    ],
)
def test_all_samples_are_read_where_the_data_set_holds_other_labels_or_none(dataset: Listed):
    stream = random.getstate()
    assert labels_of(dataset).tolist() == [int(label == 2) for label in LABELS]
    assert set(emptied(READ)) == set(range(200))
    assert random.getstate() == stream


def test_labels_that_are_given_are_taken():
    assert labels_of(TensorDataset(torch.zeros(3, 2)), [5, 5, 1]).tolist() == [5, 5, 1]
    for given, got in (([5, 1], "2 of them"), ("abc", "str"), ([0.5, 1, 1], "list")):
        with pytest.raises(DataError, match=f"labels: got {got}; expected 3 class indices"):
            labels_of(TensorDataset(torch.zeros(3, 2)), given)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Stream([1, 2]), "got a Stream, whose samples have no index"),
        (iter([1, 2]), "whose samples have no index"),
        (TensorDataset(torch.zeros(3, 2)), "got an item of type tuple; expected pairs .* Pass labels="),
        (TensorDataset(torch.zeros(3, 2), torch.zeros(3, 4)), "a Tensor of shape .4,.; expected one class index"),
        (Listed(None, change=lambda label: 1 / 0), "got ZeroDivisionError.*expected a sample at index 0"),
        (Named(None, change=lambda label: "cat"), "got 'cat'; expected one class index"),
    ],
)
def test_other_data_are_refused(dataset: Any, message: str):
    with pytest.raises(DataError, match=message):
        labels_of(dataset)
