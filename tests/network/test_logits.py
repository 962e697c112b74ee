from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_gengap.errors import GapError, LogitsError, TargetError
from lightning_gengap.network.logits import check_logits, logits_of

Y = torch.tensor([0, 1, 2, 1])
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
        ((LOGITS[0], LOGITS), "Pass forward=lambda module, batch: module(batch[0])[1] that returns the logits."),
        ({"scores": LOGITS}, "Pass forward=lambda module, batch: module(batch[0])['scores'] that returns the logits."),
        (
            LOGITS[:, 0],
            "forward=lambda module, batch: torch.nn.functional.pad(module(batch[0]).reshape(-1, 1), (1, 0))",
        ),
        (LOGITS[:3], "module(prepared(batch)), where `prepared` makes the inputs as training_step does."),
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
        (LOGITS.softmax(1), Y, LogitsError, "forward=lambda module, batch: module(batch[0]).clamp(min=1e-9).log()."),
        (LOGITS, torch.tensor([1, 2, 3, 3]), TargetError, "or pass target=lambda batch: batch[1] - 1."),
        (
            LOGITS,
            Y - 100,
            TargetError,
            "that returns such indices, or probe_data=<the training set without the samples",
        ),
        (LOGITS, Y - 101, TargetError, "got class indices from -101 to -99"),
    ],
)
def test_values_that_allow_no_margin_are_refused(logits: Tensor, targets: Tensor, error: type[GapError], message: str):
    with pytest.raises(error, match=re.escape(message)):
        check_logits(logits, targets)


@pytest.mark.parametrize("logits", [LOGITS, LOGITS.log_softmax(1), LOGITS.abs(), torch.zeros(4, 3)])
def test_logits_of_any_sign_and_scale_pass(logits: Tensor):
    check_logits(logits, Y)
