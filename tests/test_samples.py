from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_gengap.errors import BatchError, DataError
from lightning_gengap.samples import (
    FirstBatches,
    Reading,
    Samples,
    copied,
    draw_samples,
    take_batches,
    trainable_indices,
)
from tests.lightning_models import Stream, blobs

READING = Reading(samples=1024)


def numbered(examples: int = 40) -> TensorDataset:
    """Sample i is the number i, so that what was read tells its index; classes alternate."""
    return TensorDataset(torch.arange(examples).float()[:, None], torch.arange(examples) % 2)


def read(samples: Samples | None) -> list[int]:
    """The indices of numbered samples, in the order read."""
    assert samples is not None
    return [int(value) for batch in samples.batches for value in batch.content[0][:, 0]]


def drawn(loader: Any, **arguments: Any) -> list[int]:
    return sorted(read(draw_samples(loader, READING, **arguments)))


class EveryThird(Sampler[int]):
    """A sampler of the user's own, with a state that moves when it is iterated."""

    def __init__(self, length: int) -> None:
        self.length, self.passes = length, 0

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        yield from torch.randperm(self.length).mul(3).tolist()

    def __len__(self) -> int:
        return self.length


class OwnBatches(Sampler[list[int]]):
    def __iter__(self) -> Iterator[list[int]]:
        yield [0, 1, 2]
        yield [3, 4, 4]

    def __len__(self) -> int:
        return 2


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return (i % 10 for i in count())

    def __len__(self) -> int:
        return 10


class Uncopyable(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(10))

    def __deepcopy__(self, memo: object) -> Uncopyable:
        raise TypeError("cannot be copied")


LOADERS: dict[str, tuple[DataLoader[Any], Sequence[int]]] = {
    "in order": (DataLoader(numbered()), range(40)),
    "shuffled": (DataLoader(numbered(), 7, shuffle=True), range(40)),
    "subset": (DataLoader(Subset(numbered(), range(5, 25)), 7, shuffle=True), range(5, 25)),
    "subset sampler": (DataLoader(numbered(), 7, sampler=SubsetRandomSampler([3, 8, 11, 8])), [3, 8, 11]),
    "tensor of indices": (DataLoader(numbered(), sampler=SubsetRandomSampler(torch.tensor([3, 8, 8]))), [3, 8]),
    "zero weights": (
        DataLoader(numbered(), sampler=WeightedRandomSampler([0.0, 1, 1, 0] * 10, 8)),
        [i for i in range(40) if i % 4 in (1, 2)],
    ),
    "own sampler": (DataLoader(numbered(), sampler=EveryThird(13)), range(0, 39, 3)),
    "endless sampler": (DataLoader(numbered(), sampler=Endless()), range(10)),
    "own batches": (DataLoader(numbered(), batch_sampler=OwnBatches()), range(5)),
    "batch sampler": (DataLoader(numbered(), batch_sampler=BatchSampler(EveryThird(4), 2, True)), [0, 3, 6, 9]),
    "batched by the data set": (
        DataLoader(numbered(), sampler=BatchSampler(RandomSampler(numbered()), 8, False), batch_size=None),
        range(40),
    ),
    "distributed": (DataLoader(numbered(), sampler=DistributedSampler(numbered(), 2, 0)), range(40)),
    "distributed subset": (
        DataLoader(numbered(), sampler=DistributedSamplerWrapper(SubsetRandomSampler([3, 8, 11, 9]), 2, 1)),
        [3, 8, 9, 11],
    ),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_samples_are_those_trained_on(kind: str):
    loader, expected = LOADERS[kind]
    samples = draw_samples(loader, READING)
    assert sorted(read(samples)) == list(expected)
    assert samples is not None
    assert samples.train_samples == len(expected)
    assert (samples.source, samples.augmented) == ("indices", False)


@pytest.mark.parametrize("batches", [1, 2, 5])
@pytest.mark.parametrize("explicit", [False, True], ids=["batch_size", "batch_sampler"])
def test_limited_batches_in_order_leave_the_rest_untouched(batches: int, explicit: bool):
    by_size = {"batch_size": 8}
    by_sampler = {"batch_sampler": BatchSampler(SequentialSampler(numbered()), 8, False)}
    loader = DataLoader(numbered(), **(by_sampler if explicit else by_size))
    assert drawn(loader, batches_per_epoch=batches) == list(range(8 * batches))


def test_limited_batches_of_a_shuffled_set_are_drawn_from_all_of_it():
    assert drawn(DataLoader(numbered(), 8, shuffle=True), batches_per_epoch=1) == list(range(40))


def test_the_users_sampler_and_random_streams_do_not_move():
    sampler = EveryThird(13)
    generator = torch.Generator().manual_seed(7)
    before = torch.get_rng_state(), generator.get_state()
    draw_samples(DataLoader(numbered(), sampler=sampler), READING)
    draw_samples(DataLoader(numbered(), shuffle=True, generator=generator), READING)
    assert sampler.passes == 0
    assert torch.equal(before[0], torch.get_rng_state())
    assert torch.equal(before[1], generator.get_state())


def test_the_draw_is_seeded_and_without_repetition():
    loader = DataLoader(numbered(200), shuffle=True)
    first, again, other = (read(draw_samples(loader, Reading(50, seed))) for seed in (1, 1, 2))
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
    place = Reading(1024, place=lambda batch: (batch[0] + torch.rand(1), batch[1]))
    samples = draw_samples(DataLoader(numbered()), place)
    assert samples is not None
    assert samples.augmented


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Stream(), batch_size=4),
        {"a": DataLoader(numbered()), "b": DataLoader(numbered())},
        [1, 2, 3],
        DataLoader(numbered(), batch_size=None),
        DataLoader(numbered(), sampler=Uncopyable()),
    ],
    ids=["stream", "mapping", "list", "ready batches", "uncopyable sampler"],
)
def test_what_cannot_be_indexed_waits_for_the_first_batches(loader: Any):
    assert trainable_indices(loader) is None
    assert draw_samples(loader, READING) is None


def test_nothing_to_read_is_refused():
    with pytest.raises(DataError, match="got a loader over TensorDataset that yields no index"):
        draw_samples(DataLoader(numbered(0), sampler=SequentialSampler(numbered(0))), READING)


def test_a_single_class_is_refused():
    one = TensorDataset(torch.zeros(30, 1), torch.full((30,), 3))
    with pytest.raises(DataError, match=r"got 30 samples, all of class 3; expected two classes or more. Shuffle"):
        draw_samples(DataLoader(one), READING)


def test_an_unreadable_batch_is_refused():
    with pytest.raises(BatchError, match="batch: got a list of 1 items; expected a pair"):
        draw_samples(DataLoader(TensorDataset(torch.zeros(30, 1))), READING)


def test_take_batches_stops_at_enough():
    taken = take_batches(iter(DataLoader(blobs(64), batch_size=10)), Reading(25))
    assert [len(batch.targets) for batch in taken] == [10, 10, 10]


def test_first_batches_are_copied_up_to_enough():
    first = FirstBatches(Reading(20))
    for start in range(0, 40, 10):
        batch = [torch.full((10, 1), float(start)), torch.arange(10) % 2]
        first.add(batch)
        batch[0].zero_()
    assert read(first.checked()) == [0] * 10 + [10] * 10
    assert (first.checked().train_samples, first.checked().source) == (None, "first batches")


def test_first_batches_of_one_class_are_refused_at_the_end_only():
    first = FirstBatches(Reading(20))
    first.add((torch.zeros(1, 1), torch.tensor([2])))
    assert len(first.samples()) == 1
    with pytest.raises(DataError, match="all of class 2"):
        first.checked()
    with pytest.raises(DataError, match="got no batch"):
        FirstBatches(Reading(20)).checked()


def test_copies_keep_the_structure_and_share_nothing():
    batch = {"x": [torch.ones(2)], "pair": (torch.ones(1, requires_grad=True), "name")}
    copy = copied(batch)
    assert isinstance(copy["pair"], tuple)
    assert copy["pair"][1] == "name"
    assert not copy["pair"][0].requires_grad
    batch["x"][0].zero_()
    assert copy["x"][0].tolist() == [1, 1]
