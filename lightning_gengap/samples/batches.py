"""One batch: where its inputs and class targets are, how to exchange the inputs, how to call a model on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_gengap.errors import BatchError, LogitsError, TargetError
from lightning_gengap.samples.nested import exchange, flat_tensors

INPUT_KEYS = ("x", "input", "inputs", "image", "images", "img", "imgs", "pixel_values", "features", "data", "input_ids")
TARGET_KEYS = ("y", "label", "labels", "target", "targets", "class", "classes")

Forward = Callable[[nn.Module, Any], Tensor]
Target = Callable[[Any], Tensor]


@dataclass(frozen=True)
class ProbeBatch:
    """One batch.

    Attributes:
        content: the batch as the loader gave it.
        targets: class indices, shape (examples,).
        inputs: the float tensor with the examples on its first axis that margins differentiate; None for integers.
    """

    content: Any
    targets: Tensor
    inputs: Tensor | None

    def with_inputs(self, inputs: Tensor) -> Any:
        """The content with its input tensor exchanged for `inputs`."""
        return self.content if self.inputs is None else exchange(self.content, self.inputs, inputs)


def read_batch(batch: Any, target: Target | None = None, forward: Forward | None = None) -> ProbeBatch:
    """Find the inputs and the targets in `batch`: a pair, or a mapping with one of the usual keys for each.

    Args:
        batch: as the loader gave it.
        target: from the batch to its targets, where they stand elsewhere.
        forward: given where the inputs stand elsewhere; they are then looked for in all of the batch.
    """
    source = batch if forward is not None else _inputs_of(batch)
    targets = _checked_targets(target(batch) if target is not None else _targets_of(batch))
    floats = (tensor for tensor in flat_tensors(source) if tensor.is_floating_point() and tensor.ndim > 0)
    return ProbeBatch(batch, targets, next((tensor for tensor in floats if len(tensor) == len(targets)), None))


def default_forward(model: nn.Module, batch: Any) -> Tensor:
    """Call the model on the inputs of the batch."""
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
            remedy="GapMonitor watches classifiers; for one-hot labels pass target=lambda batch: batch[1].argmax(1), "
            "for labels that training mixes pass probe_data=<the plain training set>.",
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
