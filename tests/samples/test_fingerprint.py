"""Equal samples have equal fingerprints, others do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_gengap.samples.batches import read_batch
from lightning_gengap.samples.fingerprint import Fingerprint
from lightning_gengap.samples.nested import map_tensors
from lightning_gengap.samples.reader import SampleReader, Samples
from tests.samples.numbered import drawn

INPUTS = torch.rand(300, 3, 5, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(300) % 3


def fingerprint(
    inputs: Tensor = INPUTS, targets: Tensor = TARGETS, change: Callable[[Any], Any] = lambda batch: batch, **more: Any
) -> Fingerprint:
    reader = SampleReader(**({"samples": 200} | more), place=change)
    return Fingerprint.of(drawn(DataLoader(TensorDataset(inputs, targets), 16), reader))


def altered(part: Tensor, rows: slice, value: Any) -> Tensor:
    part = part.clone()
    part[rows] = value
    return part


def test_the_same_samples_are_alike():
    assert fingerprint().differences(fingerprint()) == []


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "inputs": ({"inputs": torch.rand(INPUTS.shape, generator=torch.Generator().manual_seed(1))}, "inputs"),
    "a tenth of the inputs": ({"inputs": altered(INPUTS, slice(30), 0.5)}, "inputs"),
    "scaled inputs": ({"inputs": 1.1 * INPUTS}, "inputs"),
    "shifted inputs": ({"inputs": INPUTS - 0.1}, "inputs"),
    "one label": ({"targets": altered(TARGETS, slice(None, None, 60), 1)}, "labels"),
    "fewer samples": ({"inputs": INPUTS[:250], "targets": TARGETS[:250]}, "the number of training samples (250"),
    "a larger picture": ({"inputs": INPUTS.repeat(1, 1, 2, 2)}, "the shape of a sample"),
    "whole numbers": ({"inputs": (255 * INPUTS).byte()}, "the shape of a sample"),
    "another draw": ({"seed": 1}, "labels"),
    "more of them": ({"samples": 250}, "the number of monitored samples (250 instead of 200)"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_samples_differ(kind: str):
    arguments, reason = OTHERS[kind]
    differences = fingerprint().differences(fingerprint(**arguments))
    assert any(difference.startswith(reason) for difference in differences)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_is_no_difference(dtype: torch.dtype):
    def cast(batch: Any) -> Any:
        return map_tensors(batch, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)

    assert fingerprint().differences(fingerprint(change=cast)) == []


def test_augmented_samples_are_told_by_labels_indices_and_sizes_alone():
    def noisy(batch: Any) -> Any:
        return [batch[0] + torch.randn_like(batch[0]), batch[1]]

    assert fingerprint(change=noisy).inputs == []
    assert fingerprint(change=noisy).differences(fingerprint(change=noisy)) == []
    assert fingerprint(change=noisy).differences(fingerprint(targets=TARGETS.flip(0), change=noisy)) == ["labels"]
    samples = drawn(DataLoader(TensorDataset(INPUTS, TARGETS), 16), SampleReader(20, place=noisy))
    first, second = (Fingerprint.of(samples, indices) for indices in (range(20), range(1, 21)))
    assert first.differences(second) == ["the indices of the monitored samples"]


@pytest.mark.parametrize(
    "other",
    [
        {"input_ids": torch.full((4, 3), 9000), "mask": torch.zeros(4, 3), "y": torch.tensor([0, 1, 0, 1])},
        {"input_ids": torch.arange(12).reshape(4, 3), "mask": torch.ones(4, 3), "y": torch.tensor([0, 1, 0, 1])},
    ],
    ids=["the mask", "the tokens"],
)
def test_every_tensor_of_a_batch_counts(other: dict[str, Tensor]):
    batch = {"input_ids": torch.full((4, 3), 9000), "mask": torch.ones(4, 3), "y": torch.tensor([0, 1, 0, 1])}
    one, two = (Fingerprint.of(Samples((read_batch(content),), 4, False)) for content in (batch, other))
    assert one.differences(two) == ["inputs"]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse_and_empty_tensors_are_read():
    for extra in (torch.eye(4).to_sparse(), torch.eye(4).to_sparse_csr(), torch.zeros(4, 0), torch.ones(4) * 1j):
        content = {"x": torch.eye(4), "y": torch.tensor([0, 1, 0, 1]), "extra": extra}
        samples = Samples((read_batch(content),), 4, False)
        assert Fingerprint.of(samples).differences(Fingerprint.of(samples)) == []
