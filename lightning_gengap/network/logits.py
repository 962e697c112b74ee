"""The logits in what a model returns, and whether a margin can be defined on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_gengap.errors import LogitsError, TargetError


def logits_of(output: Any, examples: int) -> Tensor:
    """The logits in a model's output, shape (examples, classes).

    Raises:
        LogitsError: the output is not a float tensor of that shape with at least two columns.
    """
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif not isinstance(output, Tensor):
        output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise LogitsError(
            "model output",
            got=type(output).__name__,
            expected="a tensor of logits, or an object or mapping with `logits`",
            remedy="Pass forward=lambda module, batch: ... that returns the logits.",
        )
    if output.ndim != 2 or len(output) != examples or output.shape[1] < 2 or not output.is_floating_point():
        raise LogitsError(
            "model output",
            got=f"shape {tuple(output.shape)} of {output.dtype} for {examples} examples",
            expected="float logits of shape (batch, classes) with two classes or more",
            remedy="Return one logit per class (two for a binary task), or pass forward=lambda module, batch: ... .",
        )
    return output


def check_logits(logits: Tensor, targets: Tensor) -> None:
    """Refuse logits that no margin can be defined on.

    Raises:
        LogitsError: non-finite values, or rows that are probabilities.
        TargetError: a target outside 0 .. classes - 1.
    """
    if not bool(torch.isfinite(logits).all()):
        raise LogitsError(
            "model output",
            got=f"{int((~torch.isfinite(logits)).any(dim=1).sum())} of {len(logits)} examples with NaN or infinity",
            expected="finite logits",
            remedy="Check the inputs' scale and the initial weights.",
        )
    if bool((logits >= 0).all()) and bool((logits.sum(dim=1) - 1).abs().max() < 1e-4):
        raise LogitsError(
            "model output",
            got="non-negative rows that sum to one, which look like probabilities",
            expected="logits before the softmax",
            remedy="Return logits and apply the softmax in the loss, or pass forward=lambda module, batch: logits.",
        )
    low, high, classes = int(targets.min()), int(targets.max()), logits.shape[1]
    if low < 0 or high >= classes:
        raise TargetError(
            "targets",
            got=f"class indices from {low} to {high} for {classes} logits",
            expected=f"indices from 0 to {classes - 1}",
            remedy="Relabel the classes, or pass target=lambda batch: ... .",
        )
