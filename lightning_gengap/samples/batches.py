"""Reading a batch: where its inputs and its class targets are, and how to exchange the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gengap.errors import BatchError, LogitsError, TargetError
from lightning_gengap.samples.nested import exchange, flat_tensors

INPUT_KEYS = ("x", "input", "inputs", "image", "images", "img", "imgs", "pixel_values", "features", "data", "input_ids")
TARGET_KEYS = ("y", "label", "labels", "target", "targets", "class", "classes")

Forward = Callable[[nn.Module, Any], Tensor]
Target = Callable[[Any], Tensor]


@dataclass(frozen=True)
class ProbeBatch:
    """One batch as the loader gave it, with its class indices and the float tensor that margins differentiate."""

    content: Any
    targets: Tensor
    inputs: Tensor | None

    def with_inputs(self, inputs: Tensor) -> Any:
        """The batch's content with its input tensor exchanged for `inputs`."""
        return self.content if self.inputs is None else exchange(self.content, self.inputs, inputs)


def read_batch(batch: Any, target: Target | None = None, forward: Forward | None = None) -> ProbeBatch:
    """Find inputs and targets in `batch`: a pair `(x, y)` or a mapping with usual keys, unless hooks say otherwise.

    Raises:
        BatchError: the layout is not understood and no hook was given.
        TargetError: the targets are not class indices of shape (batch,).
    """
    source = batch if forward is not None else _inputs_of(batch)
    targets = _checked_targets(target(batch) if target is not None else _targets_of(batch))
    floats = (tensor for tensor in flat_tensors(source) if tensor.is_floating_point() and tensor.ndim > 0)
    return ProbeBatch(batch, targets, next((tensor for tensor in floats if len(tensor) == len(targets)), None))


def default_forward(model: nn.Module, batch: Any) -> Tensor:
    """Call the model on the inputs of the batch.

    Raises:
        LogitsError: the model cannot be called with them alone.
    """
    inputs = _inputs_of(batch)
    try:
        return model(inputs)
    except (NotImplementedError, TypeError) as error:
        raise LogitsError(
            "model forward",
            got=f"{type(error).__name__}: {error}",
            expected="that the model, called with the inputs of a batch, returns logits",
            remedy="Pass forward=lambda module, batch: ... that returns the logits.",
        ) from error


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


def _checked_targets(targets: Any) -> Tensor:
    if not isinstance(targets, Tensor):
        raise TargetError(
            "targets",
            got=type(targets).__name__,
            expected="a tensor of class indices",
            remedy="Pass target=lambda batch: ... that returns them.",
        )
    if targets.is_floating_point() or targets.is_complex():
        raise TargetError(
            "targets",
            got=f"{targets.dtype} of shape {tuple(targets.shape)}, a regression target or soft labels",
            expected="integer class indices of shape (batch,)",
            remedy="GapMonitor watches classifiers; for one-hot labels pass target=lambda batch: batch[1].argmax(1).",
        )
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim != 1:
        raise TargetError(
            "targets",
            got=f"shape {tuple(targets.shape)}",
            expected="class indices of shape (batch,)",
            remedy="Pass target=lambda batch: ... that returns one class index per example.",
        )
    return targets.long()


def _inputs_of(batch: Any) -> Any:
    return _part(batch, 0, INPUT_KEYS, "inputs", "forward=lambda module, batch: ... that returns the logits")


def _targets_of(batch: Any) -> Any:
    return _part(batch, 1, TARGET_KEYS, "targets", "target=lambda batch: ... that returns the class indices")


def _part(batch: Any, position: int, keys: Sequence[str], what: str, hook: str) -> Any:
    if isinstance(batch, Mapping):
        found = [key for key in keys if key in batch]
        if len(found) == 1:
            return batch[found[0]]
        got = f"a mapping with keys {sorted(map(str, batch))}"
        expected = f"exactly one of the keys {', '.join(keys)} for the {what}"
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 2:
        return batch[position]
    else:
        size = f" of {len(batch)} items" if isinstance(batch, Sequence) else ""
        got, expected = f"a {type(batch).__name__}{size}", "a pair (inputs, targets) or a mapping with usual keys"
    raise BatchError("batch", got=got, expected=expected, remedy=f"Pass {hook}.")
