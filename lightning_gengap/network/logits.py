"""The logits in what a model returns, and whether a margin can be defined on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_gengap.errors import LogitsError, TargetError


def logits_of(output: Any, examples: int, call: str = "module(batch[0])") -> Tensor:
    """The logits in a model's output, shape (examples, classes).

    `call` is how the model was called, as a remedy writes it.

    Raises:
        LogitsError: the output is not a float tensor of that shape with at least two columns.
    """
    whole = output
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif not isinstance(output, Tensor):
        output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise LogitsError(
            "model output",
            got=type(output).__name__,
            expected="a tensor of logits, or an object or mapping with `logits`",
            remedy=f"Pass forward=lambda module, batch: {_written(whole, examples, call)} that returns the logits.",
        )
    if not _are_logits(output, examples):
        raise LogitsError(
            "model output",
            got=f"shape {tuple(output.shape)} of {output.dtype} for {examples} examples",
            expected="float logits of shape (batch, classes) with two classes or more",
            remedy=f"Return one logit per class (two for a binary task), or {_way_out(output, examples, call)}.",
        )
    return output


def _are_logits(output: Any, examples: int) -> bool:
    return (
        isinstance(output, Tensor)
        and output.ndim == 2
        and len(output) == examples
        and output.shape[1] >= 2
        and output.is_floating_point()
    )


def _written(output: Any, examples: int, call: str) -> str:
    """The part of an output that may be its logits, as it would be written; three dots without one."""
    if isinstance(output, Mapping):
        parts = [(repr(name), part) for name, part in output.items()]
    else:
        parts = [(str(at), part) for at, part in enumerate(output)] if isinstance(output, list | tuple) else []
    return next((f"{call}[{name}]" for name, part in parts if _are_logits(part, examples)), "...")


def _way_out(output: Tensor, examples: int, call: str) -> str:
    """What to pass for outputs of another shape."""
    hook = "pass forward=lambda module, batch:"
    if output.is_floating_point() and output.numel() == examples:
        padded = f"torch.nn.functional.pad({call}.reshape(-1, 1), (1, 0))"
        return f"{hook} {padded} where a sigmoid follows in the loss"
    if output.ndim and len(output) != examples:
        return f"{hook} module(prepared(batch)), where `prepared` makes the inputs as training_step does"
    return f"{hook} ... that returns them"


def check_logits(logits: Tensor, targets: Tensor, call: str = "module(batch[0])", labels: str = "batch[1]") -> None:
    """Refuse logits that no margin can be defined on.

    `call` and `labels` are how they were made and how targets are read, as a remedy writes it.

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
            remedy="Return logits and apply the softmax in the loss, or pass "
            f"forward=lambda module, batch: {call}.clamp(min=1e-9).log().",
        )
    low, high, classes = int(targets.min()), int(targets.max()), logits.shape[1]
    if low < 0 or high >= classes:
        shifted = f"{labels} - {low}" if low > 0 and high - low < classes else "... that returns such indices"
        without = ", or probe_data=<the training set without the samples that have none>" if low < 0 else ""
        raise TargetError(
            "targets",
            got=f"class indices from {low} to {high} for {classes} logits",
            expected=f"indices from 0 to {classes - 1}",
            remedy=f"Relabel the classes, or pass target=lambda batch: {shifted}{without}.",
        )
