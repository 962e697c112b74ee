"""One batch: where its inputs and class targets are, and how to exchange the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gengap.errors import BatchError, TargetError, Undefined
from lightning_gengap.samples.nested import exchange, flat_tensors, with_own_containers

INPUT_KEYS = ("x", "input", "inputs", "image", "images", "img", "imgs", "pixel_values", "features", "data", "input_ids")
_ONE_LABEL = "GapMonitor watches classifiers with one label per example"
_SEVERAL = "several or no labels per example"
TARGET_KEYS = ("y", "label", "labels", "target", "targets", "class", "classes")

Forward = Callable[[nn.Module, Any], Tensor]
Target = Callable[[Any], Tensor]


@dataclass(frozen=True)
class ProbeBatch:
    """One batch.

    Attributes:
        content: the batch as the loader gave it.
        targets: class indices, shape (examples,).
        inputs: the float tensor with the examples on its first axis that margins differentiate; None without one.
        no_inputs: why there is none, as the end of a sentence that begins "X is absent: ".
    """

    content: Any
    targets: Tensor
    inputs: Tensor | None
    no_inputs: str = "the inputs are not floats"

    def with_inputs(self, inputs: Tensor) -> Any:
        """The content with its input tensor exchanged for `inputs`.

        Raises:
            Undefined: there is no tensor to exchange.
        """
        if self.inputs is None:
            raise Undefined(self.no_inputs)
        return exchange(self.content, self.inputs, inputs)


def read_batch(batch: Any, target: Target | None = None, forward: Forward | None = None) -> ProbeBatch:
    """Find the inputs and the targets in `batch`: a pair, or a mapping or object with one usual name for each.

    Args:
        batch: as the loader gave it.
        target: from the batch to its targets, where they stand elsewhere.
        forward: given where the inputs stand elsewhere; they are then looked for in all of the batch. So they are where
            the targets alone have a usual name: the model may take the whole batch, or name its parts.

    Raises:
        BatchError: the targets are not found, or the inputs of a plain sequence.
        TargetError: the targets are no class indices.
    """
    source = batch
    if forward is None:
        try:
            source = inputs_of(batch, with_target=target is None)
        except BatchError:
            if isinstance(batch, Tensor | Sequence) or not _usual_parts(batch, TARGET_KEYS):
                raise
    targets = targets_of(batch, with_forward=forward is None) if target is None else target(with_own_containers(batch))
    targets = _checked_targets(targets, hooks_for(batch, ("target",)))
    inputs, reason = _float_inputs(batch, source, len(targets))
    return ProbeBatch(batch, targets, inputs, reason)


def inputs_of(batch: Any, with_target: bool = False) -> Any:
    """The inputs in a batch. A refusal names `forward=` for this batch, and `target=` too where that is wanted."""
    return _part(batch, 0, INPUT_KEYS, "inputs", ("forward", "target") if with_target else ("forward",))


def targets_of(batch: Any, with_forward: bool = False) -> Any:
    """The targets in a batch. A refusal names `target=` for this batch, and `forward=` too where that is wanted."""
    return _part(batch, 1, TARGET_KEYS, "targets", ("forward", "target") if with_forward else ("target",))


def hooks_for(batch: Any, hooks: Sequence[str] = ("forward",), network: str = "module") -> str:
    """The arguments `forward=` and `target=` as they would be written for a batch of this kind."""
    labels = labels_for(batch)
    written = {
        "forward": f"lambda module, batch: {call_for(batch, network)}",
        "target": f"lambda batch: {labels}",
    }
    return " and ".join(f"{hook}={written[hook]}" for hook in hooks)


def call_for(batch: Any, network: str = "module") -> str:
    """The call of a network on the tensors of a batch that are no targets, as it would be written."""
    labels, pair = labels_for(batch), _first_pair(batch)
    if pair is not None:
        return f"{network}({pair}[0])"
    others = [name for name, part in _named_parts(batch) if name != labels and flat_tensors(part)]
    return f"{network}({', '.join(others) or '...'})"


def labels_for(batch: Any) -> str:
    """What may be the targets of a batch, as it would be written; three dots without such."""
    if (first := _first_pair(batch)) is not None:
        return f"{first}[1]"
    parts = dict(_named_parts(batch))
    labels = [name for name, part in parts.items() if _may_be_targets(name, part)]
    usual = [name for name in parts if any(f"{key!r}]" in name or name.endswith(f".{key}") for key in TARGET_KEYS)]
    pair = ["batch[1]"] if isinstance(batch, list | tuple) and len(batch) == 2 else []
    return (pair or usual or labels or ["..."])[-1]


def _first_pair(batch: Any) -> str | None:
    """The first part of a batch whose parts all are pairs, as those of several loaders; None of other batches."""
    parts = list(_named_parts(batch))
    are_pairs = all(isinstance(part, list | tuple) and len(part) == 2 for _, part in parts)
    return parts[0][0] if parts and are_pairs else None


def _named_parts(batch: Any) -> Iterator[tuple[str, Any]]:
    """What a batch holds, by the expression that reads it."""
    if isinstance(batch, Mapping):
        yield from ((f"batch[{key!r}]", part) for key, part in batch.items())
    elif isinstance(batch, list | tuple):
        yield from ((f"batch[{position}]", part) for position, part in enumerate(batch))
    elif not isinstance(batch, Tensor):
        yield from ((f"batch.{name}", part) for name, part in getattr(batch, "__dict__", {}).items())


def _may_be_targets(name: str, part: Any) -> bool:
    """Whether a part of a batch looks like class indices."""
    if not isinstance(part, Tensor) or part.is_floating_point() or part.dtype == torch.bool:
        return False
    return part.ndim == 1 or (part.ndim == 2 and part.shape[1] == 1)


def _float_inputs(batch: Any, source: Any, examples: int) -> tuple[Tensor | None, str]:
    """The tensor that margins differentiate, or why there is none."""
    tensors = flat_tensors(source)
    if not tensors:
        return None, f"the tensors of a {type(source).__name__} cannot be exchanged"
    plain = [tensor for tensor in tensors if tensor.layout == torch.strided and not tensor.is_nested and tensor.ndim]
    if not plain:
        return None, "the inputs are sparse or nested"
    floats = [tensor for tensor in plain if tensor.is_floating_point()]
    others = [tensor for tensor in plain if not tensor.is_floating_point() and len(tensor) == examples]
    # Beside whole numbers, as pixels or tokens, one float per example is a weight of it, not the input.
    fewest = 2 if any(tensor.numel() > examples for tensor in others) else 1
    large = (tensor for tensor in floats if tensor.numel() >= fewest * examples)
    fitting = next((tensor for tensor in large if len(tensor) == examples), None)
    if fitting is None:
        reason = "the inputs are not floats"
        if floats and fewest == 1:
            reason = "no float input has the examples on its first axis"
        return None, reason
    if any(tensor is fitting for tensor in flat_tensors(batch)):
        return fitting, ""
    return None, f"the tensors of a {type(batch).__name__} cannot be exchanged"


def _checked_targets(targets: Any, written: str) -> Tensor:
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
            got=f"{targets.dtype} of shape {tuple(targets.shape)}, {_kind_of_floats(targets)}",
            expected="integer class indices of shape (batch,)",
            remedy=f"{_ONE_LABEL}{_of_floats(targets, written)}.",
        )
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim != 1:
        raise TargetError(
            "targets",
            got=f"shape {tuple(targets.shape)}, {_kind_of_indices(targets)}",
            expected="class indices of shape (batch,)",
            remedy=f"{_ONE_LABEL}; {_of_indices(targets, written)}.",
        )
    return targets.long()


def _labels_of_each(targets: Tensor) -> Tensor | None:
    """How many labels each example has, where targets are a matrix of zeros and ones with a column for each class."""
    if targets.ndim != 2 or targets.is_complex() or not bool(((targets == 0) | (targets == 1)).all()):
        return None
    return targets.sum(1)


def _kind_of_floats(targets: Tensor) -> str:
    labels = _labels_of_each(targets)
    several = labels is not None and bool((labels != 1).any())
    return _SEVERAL if several else "a regression target or soft labels"


def _kind_of_indices(targets: Tensor) -> str:
    if targets.ndim == 0:
        return "one number for the whole batch"
    labels = _labels_of_each(targets)
    if labels is None:
        return "labels for parts of each example, as for pixels or tokens"
    return _SEVERAL if bool((labels != 1).any()) else "one-hot labels"


def _of_indices(targets: Tensor, written: str) -> str:
    """What to do about whole numbers that are not one per example."""
    if _kind_of_indices(targets) == "one-hot labels":
        return f"pass {written}.argmax(1)"
    return "if each example has one, pass target=lambda batch: ... that returns it"


def _of_floats(targets: Tensor, written: str) -> str:
    """What to do about targets that are floats, where they may stand for classes."""
    if _kind_of_floats(targets) == _SEVERAL:
        return ""
    if targets.ndim == 2 and targets.shape[1] > 1:
        mixed = "for labels that training mixes pass probe_data=<the plain training set>"
        return f"; for one-hot labels pass {written}.argmax(1), {mixed}"
    whole = targets.is_floating_point() and bool((targets == targets.round()).all()) and bool((targets >= 0).all())
    return f"; for classes that are written as floats pass {written}.long()" if whole else ""


def _usual_parts(batch: Any, keys: Sequence[str]) -> list[str]:
    """Those of the keys that a mapping has, or an object as attributes."""
    return [key for key in keys if (key in batch if isinstance(batch, Mapping) else hasattr(batch, key))]


def _part(batch: Any, position: int, keys: Sequence[str], what: str, hooks: Sequence[str]) -> Any:
    if isinstance(batch, Mapping):
        found = _usual_parts(batch, keys)
        if len(found) == 1:
            return batch[found[0]]
        got = f"a mapping with keys {sorted(map(str, batch))}"
        expected = f"exactly one of the keys {', '.join(keys)} for the {what}"
        lacks = {
            "forward": len(_usual_parts(batch, INPUT_KEYS)) != 1,
            "target": len(_usual_parts(batch, TARGET_KEYS)) != 1,
        }
        hooks = [hook for hook in hooks if lacks[hook]]
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 2:
        return batch[position]
    else:
        names = [] if isinstance(batch, Tensor | Sequence) else _usual_parts(batch, keys)
        if len(names) == 1:
            return getattr(batch, names[0])
        size = f" of {len(batch)} items" if isinstance(batch, Sequence) else ""
        got, expected = f"a {type(batch).__name__}{size}", "a pair (inputs, targets) or a mapping with usual keys"
    as_trained = ", with the arguments of training_step" if "forward" in hooks else ""
    remedy = f"Pass {hooks_for(batch, hooks)}{as_trained}."
    raise BatchError("batch", got=got, expected=expected, remedy=remedy)
