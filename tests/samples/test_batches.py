from __future__ import annotations

import re
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_gengap.errors import BatchError, GapError, LogitsError, TargetError
from lightning_gengap.samples.batches import check_logits, default_forward, logits_of, read_batch

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
    assert read.with_inputs(X) is read.content


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
    ({"a": X, "y": Y}, BatchError, "got a mapping with keys ['a', 'y']; expected exactly one of the keys x, input"),
    ({"x": X, "data": X, "y": Y}, BatchError, "expected exactly one of the keys x, input"),
    ((X, [0, 1, 2, 1]), TargetError, "targets: got list; expected a tensor of class indices. Pass target="),
    ((X, Y.float()), TargetError, "got torch.float32 of shape (4,), a regression target or soft labels"),
    ((X, torch.rand(4, 3)), TargetError, "GapMonitor watches classifiers; for one-hot labels pass target="),
    ((X, torch.zeros(4, 3).long()), TargetError, "got shape (4, 3); expected class indices of shape (batch,)"),
    ((X, torch.tensor(1)), TargetError, "got shape (); expected class indices of shape (batch,)"),
]


@pytest.mark.parametrize(("batch", "error", "message"), BAD_BATCHES, ids=range(len(BAD_BATCHES)))
def test_unusual_batches_are_refused_with_a_remedy(batch: Any, error: type[GapError], message: str):
    with pytest.raises(error, match=re.escape(message)):
        read_batch(batch)


def test_a_target_that_is_no_tensor_can_be_repaired_by_the_hook():
    assert read_batch((X, [0, 1, 2, 1]), target=lambda batch: torch.tensor(batch[1])).targets.tolist() == [0, 1, 2, 1]


LOGITS = torch.randn(4, 3)


@pytest.mark.parametrize("output", [LOGITS, {"logits": LOGITS}, SimpleNamespace(logits=LOGITS, loss=None)])
def test_logits_are_found(output: Any):
    assert logits_of(output, 4) is LOGITS


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ((LOGITS, None), "model output: got tuple; expected a tensor of logits, or an object or mapping with `logits`"),
        ({"scores": LOGITS}, "got NoneType"),
        (LOGITS[:3], "got shape (3, 3) of torch.float32 for 4 examples; expected float logits of shape"),
        (LOGITS[:, 0], "got shape (4,)"),
        (LOGITS[:, :1], "got shape (4, 1)"),
        (LOGITS.long(), "of torch.int64"),
        (LOGITS[:, None], "Return one logit per class (two for a binary task)"),
    ],
)
def test_other_outputs_are_refused(output: Any, message: str):
    with pytest.raises(LogitsError, match=re.escape(message)):
        logits_of(output, 4)


@pytest.mark.parametrize(
    ("logits", "targets", "error", "message"),
    [
        (LOGITS * torch.nan, Y, LogitsError, "got 4 of 4 examples with NaN or infinity; expected finite logits"),
        (torch.tensor([[0.0, torch.inf], [1, 2]]), Y[:2], LogitsError, "got 1 of 2 examples"),
        (LOGITS.softmax(1), Y, LogitsError, "non-negative rows that sum to one, which look like probabilities"),
        (LOGITS, Y + 1, TargetError, "got class indices from 1 to 3 for 3 logits; expected indices from 0 to 2"),
        (LOGITS, Y - 101, TargetError, "got class indices from -101 to -99"),
    ],
)
def test_values_that_allow_no_margin_are_refused(logits: Tensor, targets: Tensor, error: type[GapError], message: str):
    with pytest.raises(error, match=re.escape(message)):
        check_logits(logits, targets)


@pytest.mark.parametrize("logits", [LOGITS, LOGITS.log_softmax(1), LOGITS.abs(), torch.zeros(4, 3)])
def test_logits_of_any_sign_and_scale_pass(logits: Tensor):
    check_logits(logits, Y)


def test_the_default_forward_calls_the_model_on_the_inputs():
    model = nn.Linear(3, 2)
    assert torch.equal(default_forward(model, {"features": X, "label": Y}), model(X))
