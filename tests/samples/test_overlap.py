"""Whether samples were trained on, by index and by content."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, SubsetRandomSampler, TensorDataset

from lightning_gengap.samples.batches import ProbeBatch, read_batch
from lightning_gengap.samples.overlap import digest_of, equal_samples, shared_indices
from tests.streams import Stream

DATA = TensorDataset(torch.randn(100, 3, generator=torch.Generator().manual_seed(0)), torch.arange(100) % 2)


def subset(*bounds: int) -> Subset[Any]:
    return Subset(DATA, range(*bounds))


@pytest.mark.parametrize(
    ("one", "other", "indices", "shared"),
    [
        (subset(0, 20), subset(10, 60), None, 10),
        (subset(0, 20), DATA, range(15, 100), 5),
        (Subset(subset(50, 100), [0, 1, 2]), DataLoader(subset(0, 52)), None, 2),
        (DataLoader(DATA, sampler=SubsetRandomSampler(range(30))), subset(20, 40), None, 10),
        (DATA, DATA, None, 100),
        (ConcatDataset([subset(0, 20), TensorDataset(*DATA.tensors)]), DataLoader(subset(15, 60)), None, 5),
        (subset(0, 20), subset(20, 100), None, 0),
        (subset(0, 20), TensorDataset(*DATA.tensors), None, 0),
        (Stream(DATA), DATA, None, 0),
        (None, DATA, None, 0),
    ],
)
def test_indices_are_those_of_the_data_set_below_all_subsets(one: Any, other: Any, indices: Any, shared: int):
    assert shared_indices(one, other, indices) == shared


def batches(inputs: torch.Tensor, size: int = 16) -> list[ProbeBatch]:
    return [read_batch((part, torch.zeros(len(part), dtype=torch.long))) for part in inputs.split(size)]


def images(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(seed))


def test_samples_that_were_trained_on_are_counted_whatever_their_labels():
    trained = images(200, 0)
    inputs = torch.cat([trained[:12], images(20, 1)])
    held_out = [read_batch((inputs, torch.ones(32, dtype=torch.long)))]
    assert equal_samples(held_out, batches(trained)) == 12


def test_new_samples_are_none_of_them():
    assert equal_samples(batches(images(100, 1)), batches(images(200, 0))) == 0


def test_a_data_set_with_duplicates_may_have_some_in_what_is_held_out():
    patterns = images(30, 0)  # every pattern occurs many times
    drawn = patterns[torch.randint(30, (400,), generator=torch.Generator().manual_seed(1))]
    assert equal_samples(batches(drawn[300:]), batches(drawn[:300])) == 0
    rare = torch.cat([images(290, 2), patterns[:5], patterns[:5]])  # a share of 10 in 300 has a double
    assert equal_samples(batches(torch.cat([patterns[:1], images(29, 3)])), batches(rare)) == 0
    assert equal_samples(batches(torch.cat([rare[:15], images(15, 3)])), batches(rare)) == 15


def test_one_equal_sample_in_a_part_of_a_large_training_set_is_no_proof():
    trained = images(1024, 0)
    assert equal_samples(batches(torch.cat([trained[:1], images(99, 1)])), batches(trained)) == 0
    assert equal_samples(batches(torch.cat([trained[:2], images(98, 1)])), batches(trained)) == 2


def test_what_cannot_be_compared_is_taken_for_new():
    scalars = [read_batch((torch.arange(20.0), torch.zeros(20, dtype=torch.long)))]
    assert equal_samples(scalars, scalars) == 0
    assert math.isfinite(equal_samples([], scalars))


def test_a_digest_tells_samples_labels_and_their_order_but_not_the_batches():
    inputs, labels = DATA.tensors
    whole = digest_of([read_batch((inputs, labels))])
    parts = [read_batch((inputs[part], labels[part])) for part in (slice(0, 30), slice(30, 100))]
    assert digest_of(parts) == whole
    changed = inputs.clone()
    changed[99, 0] += 1
    others = [(changed, labels), (inputs, 1 - labels), (inputs.flip(0), labels.flip(0)), (inputs[:99], labels[:99])]
    assert len({whole, *(digest_of([read_batch(each)]) for each in others)}) == 5


def test_samples_that_cannot_be_told_apart_have_no_digest():
    assert digest_of([ProbeBatch(DATA.tensors[1], targets=DATA.tensors[1], inputs=None)]) == ""
