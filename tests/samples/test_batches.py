from __future__ import annotations

import re
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import nn

from lightning_gengap.errors import BatchError, GapError, TargetError, Undefined
from lightning_gengap.samples.batches import read_batch
from lightning_gengap.samples.calling import default_forward

X, Y = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
Pair = namedtuple("Pair", ["images", "labels"])


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, Y],
        Pair(X, Y),
        {"image": X, "label": Y},
        {"pixel_values": X, "labels": Y, "file": ["a"] * 4},
        (X, Y[:, None]),
        (X, Y.to(torch.uint8)),
        (X, Y.bool().long()),
        ({"left": X, "right": X}, Y),
    ],
    ids=["tuple", "list", "namedtuple", "mapping", "more keys", "column", "bytes", "two classes", "nested"],
)
def test_usual_batches_are_read(batch: Any):
    read = read_batch(batch)
    assert read.content is batch
    assert read.inputs is X
    assert read.targets.dtype == torch.long
    assert read.targets.shape == (4,)


def test_integer_inputs_have_no_float_tensor():
    tokens = torch.randint(0, 9, (4, 5))
    read = read_batch({"input_ids": tokens, "labels": Y})
    assert read.inputs is None
    with pytest.raises(Undefined, match="the inputs are not floats"):
        read.with_inputs(X)


def test_hooks_replace_the_usual_places():
    batch = {"anything": X, "side": torch.zeros(7), "truth": Y}
    read = read_batch(batch, target=lambda b: b["truth"], forward=lambda module, b: module(b["anything"]))
    assert read.inputs is X
    assert torch.equal(read.targets, Y)


BAD_BATCHES: list[tuple[Any, type[GapError], str]] = [
    (X, BatchError, "batch: got a Tensor; expected a pair (inputs, targets) or a mapping with usual keys. Pass"),
    ((X, Y, Y), BatchError, "got a tuple of 3 items; expected a pair"),
    ("text", BatchError, "got a str of 4 items; expected a pair"),
    (None, BatchError, "got a NoneType; expected a pair"),
    ({"x": X}, BatchError, "got a mapping with keys ['x']; expected exactly one of the keys y, label, labels"),
    (
        {"a": X, "b": Y},
        BatchError,
        "Pass forward=lambda module, batch: module(batch['a']) and target=lambda batch: batch['b'], with",
    ),
    (
        (X, torch.rand(4)),
        TargetError,
        "expected integer class indices of shape (batch,). GapMonitor watches classifiers with one label per example.",
    ),
    (
        {"a": (X, Y), "b": (X, Y)},
        BatchError,
        "Pass forward=lambda module, batch: module(batch['a'][0]) and target=lambda batch: batch['a'][1], with",
    ),
    ((X, [0, 1, 2, 1]), TargetError, "targets: got list; expected a tensor of class indices. Pass target="),
    ((X, Y.float()), TargetError, "for classes that are written as floats pass target=lambda batch: batch[1].long()."),
    ((X, torch.rand(4, 3)), TargetError, "for one-hot labels pass target=lambda batch: batch[1].argmax(1), for labels"),
    (
        {"x": X, "y": torch.rand(4, 3)},
        TargetError,
        "for one-hot labels pass target=lambda batch: batch['y'].argmax(1), for labels",
    ),
    ((X, torch.ones(4, 3).long()), TargetError, "got shape (4, 3), several or no labels per example; expected class"),
    (
        (X, torch.ones(4, 3)),
        TargetError,
        "got torch.float32 of shape (4, 3), several or no labels per example; expected",
    ),
    ((X, torch.eye(4).long()), TargetError, "one label per example; pass target=lambda batch: batch[1].argmax(1)."),
    ((X, 2 * torch.ones(4, 3, 3).long()), TargetError, "got shape (4, 3, 3), labels for parts of each example, as for"),
    ((X, torch.arange(12).reshape(4, 3)), TargetError, "got shape (4, 3), labels for parts of each example, as for"),
    ((X, torch.tensor(1)), TargetError, "got shape (), one number for the whole batch; expected class indices of"),
]


@pytest.mark.parametrize(("batch", "error", "message"), BAD_BATCHES, ids=range(len(BAD_BATCHES)))
def test_unusual_batches_are_refused_with_a_remedy(batch: Any, error: type[GapError], message: str):
    with pytest.raises(error, match=re.escape(message)):
        read_batch(batch)


@pytest.mark.parametrize("batch", [{"a": X, "y": Y}, {"x": X, "data": X, "y": Y}])
def test_inputs_of_other_names_are_left_to_the_model(batch: Any):
    """It may take the whole batch, or name its parts; the first forward tells."""
    assert read_batch(batch).inputs is X
    with pytest.raises(BatchError, match=r"expected exactly one of the keys x, input, .*Pass forward=lambda module"):
        default_forward(nn.Linear(3, 2), batch)


def test_a_target_that_is_no_tensor_can_be_repaired_by_the_hook():
    assert read_batch((X, [0, 1, 2, 1]), target=lambda batch: torch.tensor(batch[1])).targets.tolist() == [0, 1, 2, 1]


def test_the_default_forward_calls_the_model_on_the_inputs():
    model = nn.Linear(3, 2)
    assert torch.equal(default_forward(model, {"features": X, "label": Y}), model(X))


def test_one_float_an_example_beside_whole_numbers_is_a_weight_and_no_input() -> None:
    pixels, weights, targets = torch.zeros(3, 2, 4, 4, dtype=torch.uint8), torch.rand(3), torch.arange(3)
    found = read_batch(((pixels, {"weight": weights}), targets))
    assert (found.inputs, found.no_inputs) == (None, "the inputs are not floats")
    alone = read_batch((weights, targets))
    assert alone.inputs is weights
    counts = read_batch(((weights, torch.arange(3)), targets))
    assert counts.inputs is weights
