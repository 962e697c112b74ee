"""Which indices are drawn from, for every kind of sampler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import Any

import lightning.fabric.utilities.distributed as by_lightning
import lightning_fabric.utilities.distributed as by_pytorch_lightning
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_gengap.errors import DataError
from lightning_gengap.samples.drawing import draw_samples
from lightning_gengap.samples.trainable_indices import trainable, trainable_indices, why_unknown
from tests.lightning_models import Iterated, blobs
from tests.samples.numbered import READER, drawn, numbered, numbers
from tests.streams import Stream


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
    **{
        f"distributed subset of {package.__name__}": (
            DataLoader(numbered(), sampler=package.DistributedSamplerWrapper(SubsetRandomSampler([3, 8, 11, 9]), 2, 1)),
            [3, 8, 9, 11],
        )
        for package in (by_lightning, by_pytorch_lightning)
    },
}


@pytest.mark.parametrize("kind", LOADERS)
def test_samples_are_those_trained_on(kind: str):
    loader, expected = LOADERS[kind]
    samples = drawn(loader)
    assert sorted(numbers(samples)) == list(expected)
    assert samples.train_samples == len(expected)


def test_a_sample_that_is_repeated_counts_once():
    data, more = numbered(10), numbered(3)
    both = ConcatDataset([data, more, data])
    cases: list[tuple[Any, list[int]]] = [
        (both, list(range(13))),
        (Subset(data, [3, 3, 1, 3, 2]), [0, 2, 4]),
        (Subset(both, [0, 13, 1, 10]), [0, 2, 3]),  # the second is the first one again
        (Subset(data, [3, 2]), [0, 1]),
        (ConcatDataset([data, numbered(10)]), list(range(20))),  # another data set, as far as is known
    ]
    for repeated, expected in cases:
        assert list(trainable_indices(DataLoader(repeated, 4, shuffle=True)) or ()) == expected
        assert drawn(DataLoader(repeated, 4, shuffle=True)).train_samples == len(expected)
    three = trainable(DataLoader(Subset(data, [3, 3, 1, 3, 2]), 5, shuffle=True))
    assert three is not None
    assert three.met() == three.met(1) == 3
    weighted = DataLoader(cases[1][0], sampler=WeightedRandomSampler([1.0, 0, 1, 1, 1], 4))
    found = trainable(weighted)
    assert found is not None
    assert list(found.indices) == [0, 2, 4]
    assert torch.as_tensor(found.chances).tolist() == [0.5, 0.25, 0.25]


class Shifted(Subset[Any]):
    """Gives other samples than the indices say."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self.dataset[index] for index in indices]


@pytest.mark.parametrize("repeated", [Shifted(numbered(10), [2, 2, 3]), Subset({"a": 0, "b": 1}, ["a", "a", "b"])])
def test_what_a_data_set_of_its_own_repeats_is_not_known(repeated: Any):
    assert trainable_indices(DataLoader(repeated, 1, shuffle=True)) == range(3)


@pytest.mark.parametrize("batches", [1, 2, 5])
@pytest.mark.parametrize("explicit", [False, True], ids=["batch_size", "batch_sampler"])
def test_limited_batches_in_order_leave_the_rest_untouched(batches: int, explicit: bool):
    by_size = {"batch_size": 8}
    by_sampler = {"batch_sampler": BatchSampler(SequentialSampler(numbered()), 8, False)}
    loader = DataLoader(numbered(), **(by_sampler if explicit else by_size))
    assert sorted(numbers(drawn(loader, batches_per_epoch=batches))) == list(range(8 * batches))


def test_limited_batches_of_a_shuffled_set_are_drawn_from_all_of_it():
    shuffled = DataLoader(numbered(), 8, shuffle=True)
    assert sorted(numbers(drawn(shuffled, batches_per_epoch=1))) == list(range(40))


def test_the_users_sampler_and_random_streams_do_not_move():
    sampler = EveryThird(13)
    generator = torch.Generator().manual_seed(7)
    before = torch.get_rng_state(), generator.get_state()
    drawn(DataLoader(numbered(), sampler=sampler))
    drawn(DataLoader(numbered(), shuffle=True, generator=generator))
    assert sampler.passes == 0
    assert torch.equal(before[0], torch.get_rng_state())
    assert torch.equal(before[1], generator.get_state())


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (DataLoader(Stream(blobs()), batch_size=4), "the data can only be iterated"),
        ({"a": DataLoader(numbered()), "b": DataLoader(numbered())}, "2 loaders are combined"),
        ([1, 2, 3], "3 loaders are combined"),
        ([DataLoader(numbered())], "the loader is in a container"),
        (Iterated(numbered()), "Iterated is no DataLoader of torch"),
        (DataLoader(numbered(), batch_size=None), "each item of the TensorDataset is a batch"),
        (DataLoader(numbered(), sampler=Uncopyable()), "the Uncopyable cannot be asked what it draws"),
    ],
    ids=["stream", "mapping", "list", "list of one", "iterable", "ready batches", "uncopyable sampler"],
)
def test_what_cannot_be_indexed_waits_for_the_first_batches(loader: Any, why: str):
    assert trainable_indices(loader) is None
    assert draw_samples(loader, READER) is None
    assert why_unknown(loader) == why


def test_nothing_to_read_is_refused():
    with pytest.raises(DataError, match="got a loader over TensorDataset that yields no index"):
        draw_samples(DataLoader(numbered(0), sampler=SequentialSampler(numbered(0))), READER)


WEIGHTS = torch.tensor([0.0, 1.0, 2.0, 5.0] * 10)
LIMITED: dict[str, tuple[DataLoader[Any], int]] = {
    "in order": (DataLoader(numbered(), 8), 3),
    "shuffled": (DataLoader(numbered(), 8, shuffle=True), 99),
    "shuffled, a part": (DataLoader(numbered(), 8, shuffle=True), 2),
    "without the last batch": (DataLoader(numbered(), 12, shuffle=True, drop_last=True), 99),
    "few of them": (DataLoader(numbered(), 8, sampler=RandomSampler(numbered(), num_samples=10)), 99),
    "more than all": (DataLoader(numbered(), 8, sampler=RandomSampler(numbered(), num_samples=60)), 99),
    "with replacement": (DataLoader(numbered(), 8, sampler=RandomSampler(numbered(), replacement=True)), 99),
    "weighted": (DataLoader(numbered(), 8, sampler=WeightedRandomSampler(WEIGHTS, 40)), 99),
    "weighted, a part": (DataLoader(numbered(), 8, sampler=WeightedRandomSampler(WEIGHTS, 40)), 2),
    "one index thrice": (DataLoader(numbered(), 2, sampler=SubsetRandomSampler([1, 2, 3, 3, 3, *range(4, 15)])), 3),
    "own sampler": (DataLoader(numbered(), 7, sampler=EveryThird(13)), 99),
}


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("kind", LIMITED)
def test_the_number_met_is_that_of_real_epochs(kind: str, epochs: int):
    data, batches = LIMITED[kind]
    torch.manual_seed(0)
    met = []
    for _ in range(100):
        seen: set[int] = set()
        for _ in range(epochs):
            for inputs, _ in islice(data, batches):
                seen.update(inputs[:, 0].int().tolist())
        met.append(len(seen))
    expected = trainable(data, batches)
    error = torch.tensor(met).double().std() / 10
    assert abs(expected.met(epochs) - sum(met) / 100) <= 4 * error + 0.5


def test_half_an_epoch_meets_half_of_the_samples():
    shuffled = trainable(DataLoader(numbered(), 8, shuffle=True))
    assert [shuffled.met(epochs) for epochs in (0, 0.5, 1, 1.5, float("inf"))] == [0, 20, 40, 40, 40]


def test_ranks_meet_their_samples_together():
    def of(batches: int, **arguments: Any) -> int | None:
        sampler = DistributedSampler(numbered(), 2, 0, **arguments)
        return trainable(DataLoader(numbered(), 8, sampler=sampler), batches).met(1)

    assert [of(99), of(99, shuffle=False), of(1), of(1, shuffle=False)] == [40, 40, 16, 16]


class AnotherPart(Sampler[int]):
    """Other samples in each epoch, by a random stream of its own."""

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(40, generator=self.generator)[:10].tolist())

    def __len__(self) -> int:
        return 10


class PartByEpoch(Sampler[int]):
    """Other samples in each epoch, by its number."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(10 * self.epoch, 10 * self.epoch + 10))

    def __len__(self) -> int:
        return 10


@pytest.mark.parametrize(
    "sampler",
    [AnotherPart(), PartByEpoch(), WeightedRandomSampler(WEIGHTS, 20, replacement=False)],
    ids=["random", "by epoch", "weighted without replacement"],
)
def test_what_later_epochs_take_is_not_guessed(sampler: Sampler[int]):
    found = trainable(DataLoader(numbered(), 5, sampler=sampler))
    assert len(found.indices) > 10
    assert found.met(1) is None
