"""The user's data set, collate function and workers are the same with and without the monitor."""

from __future__ import annotations

import copy
import pickle
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, default_collate, get_worker_info

from tests.lightning_models import TinyModel, blobs, fitted, watched
from tests.tiny_predictors import tiny_monitor

IMAGES, TARGETS = blobs().tensors


class Base(Dataset[Any]):
    """The blobs, read by `read`; every read may leave something in `state`."""

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.file, self.state = path, None, {}

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        return self.read(index), int(TARGETS[index])

    def read(self, index: int) -> Tensor:
        return IMAGES[index]


class OpenedLate(Base):
    """Opens its file at the first read, so once per process."""

    def read(self, index: int) -> Tensor:
        if self.file is None:
            self.file = open(self.path, "rb")  # noqa: SIM115
        self.file.seek(144 * index)
        return torch.from_numpy(np.frombuffer(self.file.read(144), "float32").reshape(1, 6, 6).copy())


class OpenedEarly(OpenedLate):
    """Opened before training: processes that fork share the offset."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.file = open(path, "rb")  # noqa: SIM115


class OpenedByWorkers(Base):
    """Can be read in workers alone."""

    def read(self, index: int) -> Tensor:
        return self.file[index]


def open_in_worker(worker: int) -> None:
    get_worker_info().dataset.file = IMAGES


class AsksForItsWorker(Base):
    def read(self, index: int) -> Tensor:
        return IMAGES[index] + 0 * get_worker_info().id


class Noisy(Base):
    """Augments from a stream of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = torch.Generator().manual_seed(3)

    def read(self, index: int) -> Tensor:
        return IMAGES[index] + torch.randn(1, generator=self.stream)


class Ageing(Base):
    """What it gives depends on how often it was read."""

    def read(self, index: int) -> Tensor:
        self.state["reads"] = self.state.get("reads", 0) + 1
        return IMAGES[index] + 1e-3 * self.state["reads"]


class Counted:
    """A collate function with a state."""

    calls = 0

    def __call__(self, items: list[Any]) -> Any:
        self.calls += 1
        images, targets = default_collate(items)
        return images + 1e-3 * self.calls, targets


class Batched(Base):
    """Fetches whole lists, and nothing else."""

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("lists alone")

    def __getitems__(self, indices: list[int]) -> Any:
        return [(IMAGES[i], int(TARGETS[i])) for i in indices]


class Tabled(Base):
    """Gives columns for lists of indices, as a table does."""

    def __getitem__(self, indices: list[int]) -> Any:
        return IMAGES[indices], TARGETS[indices]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    IMAGES.numpy().tofile(tmp_path / "images")
    return tmp_path / "images"


def lists() -> Any:
    sampler = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(range(64)), 16, drop_last=False)
    return DataLoader(Tabled(), batch_size=None, sampler=sampler)


def batches() -> Any:
    return [[*range(start, start + 16)] for start in range(0, 64, 16)]


DATA: dict[str, Any] = {
    "opened late": lambda path: DataLoader(OpenedLate(path), 16),
    "opened late, workers": lambda path: DataLoader(OpenedLate(path), 16, num_workers=2),
    "opened early": lambda path: DataLoader(OpenedEarly(path), 16),
    "opened early, worker": lambda path: DataLoader(OpenedEarly(path), 16, num_workers=1),
    "opened by workers": lambda path: DataLoader(OpenedByWorkers(), 16, num_workers=1, worker_init_fn=open_in_worker),
    "asks for its worker": lambda path: DataLoader(AsksForItsWorker(), 16, num_workers=1),
    "own stream": lambda path: DataLoader(Noisy(), 16),
    "own stream, deep": lambda path: DataLoader(Subset(ConcatDataset([Noisy()]), range(64)), 16, shuffle=True),
    "own counter": lambda path: DataLoader(Ageing(), 16),
    "collate with a state": lambda path: DataLoader(Base(), 16, collate_fn=Counted()),
    "whole lists": lambda path: DataLoader(Batched(), 16, shuffle=True),
    "columns": lambda path: lists(),
    "own batches": lambda path: DataLoader(Base(), batch_sampler=batches()),
}
AUGMENTED = ("own stream", "own stream, deep", "own counter", "collate with a state")


@pytest.mark.parametrize("kind", DATA)
def test_training_and_its_data_are_as_without_the_monitor(path: Path, kind: str, caplog: pytest.LogCaptureFixture):
    torch.manual_seed(1)
    model, data, other = TinyModel(), DATA[kind](path), DATA[kind](path)
    alone, monitor = copy.deepcopy(model), tiny_monitor()
    values, said = watched(monitor, model=model, data=data)
    expected = fitted(model=alone, data=other)
    weights, others = model.state_dict(), alone.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert [row["user_loss"] for row in values.rows] == [row["user_loss"] for row in expected.rows]
    assert traces(data) == traces(other)
    assert values("gengap/status") == [0, 0]
    assert monitor.values["probe_samples"] == monitor.values["train_samples"] == 64
    assert ["augmented" in message for message in said] == ([True] if kind in AUGMENTED else [])
    assert not any("copies the first batches" in line for line in caplog.messages)
    for dataset in (data.dataset, other.dataset):
        if isinstance(getattr(dataset, "file", None), BufferedReader):
            dataset.file.close()  # whatever the monitor had opened is closed: that would be a warning


def traces(loader: DataLoader[Any]) -> Any:
    """What reading may have left in the data set and the collate function."""
    dataset, calls = loader.dataset, getattr(loader.collate_fn, "calls", None)
    if not isinstance(dataset, Base):
        return calls
    offset = None if dataset.file is None else dataset.file.tell()
    return dataset.state, offset, calls


def test_a_data_set_that_was_read_can_still_be_sent_to_a_new_process(path: Path):
    data = DataLoader(OpenedLate(path), 16, num_workers=1)
    fitted(tiny_monitor(), data=data, max_epochs=1)
    assert pickle.loads(pickle.dumps(data.dataset)).file is None  # as the "spawn" of workers does it


def test_a_stream_that_cannot_be_copied_is_told(caplog: pytest.LogCaptureFixture):
    class Fed(Base):
        def __init__(self) -> None:
            super().__init__()
            self.feed = (0.0 for _ in range(10**6))

        def read(self, index: int) -> Tensor:
            return IMAGES[index] + next(self.feed)

    fitted(tiny_monitor(), data=DataLoader(Fed(), 16))
    lines = [line for line in caplog.messages if "cannot be copied" in line]
    assert lines == [
        "GapMonitor: samples are read through a copy of the data set, but its generator cannot be copied: what reading "
        "changes in there stays changed."
    ]
