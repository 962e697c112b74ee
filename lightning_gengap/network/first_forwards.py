"""What the first forwards tell: how the network is called, and whether its samples can be computed apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gengap.errors import out_of_memory
from lightning_gengap.network.logits import logits_of
from lightning_gengap.samples.batches import Forward, ProbeBatch, call_for
from lightning_gengap.samples.calling import chosen_forward
from lightning_gengap.samples.nested import (
    INSEPARABLE,
    exchange,
    flat_tensors,
    handed_out,
    joined,
    map_tensors,
    rows_of,
)

_APART = 1e-4  # of the largest logit: far above what the size of a batch does to rounding
_LOW_PRECISION = 5e-2  # the same, of models in half precision
_ABSOLUTE = 1e-5
_INTERACT = "samples interact in eval mode"
_RANDOM = "the outputs are random in eval mode, so all values differ from measurement to measurement"


@dataclass(frozen=True)
class FirstForwards:
    """What is settled on the first batch, for all batches.

    Attributes:
        call: maps (model, batch as the loader gave it) to logits.
        forward: the same for the content of `batches`.
        batches: with the examples on the first axis of every tensor where that is possible.
        interaction: that the samples of a batch interact in eval mode; None where they do not, or it is unknown.
        inseparable: why samples cannot be computed alone; None where they can.
        remark: what the user should know of all values; None without such.
    """

    call: Forward
    forward: Forward
    batches: tuple[ProbeBatch, ...]
    interaction: str | None = None
    inseparable: str | None = None
    remark: str | None = None

    @classmethod
    def of(cls, model: nn.Module, batches: tuple[ProbeBatch, ...], forward: Forward | None = None) -> FirstForwards:
        """Call the model on the first batch, and on half of it; use it inside `undisturbed`.

        Args:
            model: in eval mode.
            batches: not empty.
            forward: how to call the model; None for a choice among the usual ways.

        Cost: a forward of the first batch and one of half of it; one or two more for unusual batches.

        Raises:
            LogitsError: the outputs are no logits, or no usual way to call the model works.
        """
        first = batches[0]
        with torch.no_grad():
            examples = len(first.targets)
            if forward is None:
                written = call_for(first.content)
                call, whole = chosen_forward(model, first.content, lambda output: logits_of(output, examples, written))
            else:
                call, whole = forward, _logits(model, forward, first.content, examples)
            settled = cls(call, call, batches)._with_exchangeable_inputs(model, whole)._with_float_images(model, whole)
            apart = _apart(model, call, first.content, whole)
            if apart is None:
                return settled._with_time_first(model, whole) or settled._inseparable()
            apart = max(apart, _apart_when_joined(model, call, batches, whole))
            if apart <= _limit(whole):
                return settled
            if _is_random(model, call, first.content, whole):
                return replace(settled, remark=_RANDOM)
        if _has_parts_of_its_own(first.content, examples):
            return settled._inseparable()
        remark = (
            f"{_INTERACT}, where logits of a part of a chunk alone differ by {apart:.2g} from the same ones in the "
            f"whole chunk, so all values depend on the chunks, here of size {examples}, and margins are those of whole "
            "chunks"
        )
        return replace(settled, interaction=_INTERACT, inseparable=_INTERACT, remark=remark)

    def separable(self, given: Sequence[ProbeBatch]) -> bool:
        """Whether the samples of the given batches can be put into another order without a change of any value."""
        turned = any(own.content is not batch.content for own, batch in zip(self.batches, given, strict=True))
        return self.inseparable is None and not (turned and isinstance(self.forward, _TimeFirst))

    def settled(self, batch: ProbeBatch) -> ProbeBatch:
        """Another batch, made like `batches` from what the loader gave."""
        if isinstance(self.forward, _TimeFirst):
            return _turned_batch(batch, self.forward.places)
        floats = None if self.batches[0].inputs is None else _with_floats(batch)
        return batch if floats is None else floats

    def _inseparable(self) -> FirstForwards:
        """The same, with samples that cannot be computed alone; square inputs may have the examples on either axis."""

        def unsure(batch: ProbeBatch) -> bool:
            return batch.inputs is not None and batch.inputs.ndim > 1 and batch.inputs.shape[1] == len(batch.targets)

        batches = tuple(
            replace(batch, inputs=None, no_inputs="the axis of the examples is unknown") if unsure(batch) else batch
            for batch in self.batches
        )
        return replace(self, batches=batches, inseparable=INSEPARABLE)

    def _with_exchangeable_inputs(self, model: nn.Module, whole: Tensor) -> FirstForwards:
        """The same, without inputs where the model does not read what stands in their place."""
        first = self.batches[0]
        if first.inputs is None or _is_plain(first.content):
            return self
        try:
            moved = _logits(model, self.call, first.with_inputs(first.inputs.roll(1, 0)), len(whole))
            if not torch.equal(moved, whole) or torch.equal(first.inputs.roll(1, 0), first.inputs):
                return self
        except Exception as error:  # whatever foreign code raises on a batch of another type
            if out_of_memory(error):
                raise
        reason = f"the tensors of a {type(first.content).__name__} cannot be exchanged"
        return replace(self, batches=tuple(replace(b, inputs=None, no_inputs=reason) for b in self.batches))

    def _with_float_images(self, model: nn.Module, whole: Tensor) -> FirstForwards:
        """The same with floats for images of bytes, where the model does not mind: they can then be perturbed."""
        found = [_with_floats(batch) for batch in self.batches]
        batches = tuple(batch for batch in found if batch is not None)
        if len(batches) < len(found):
            return self
        try:
            logits = _logits(model, self.call, batches[0].content, len(whole))
        except Exception as error:  # a network that needs integers
            if out_of_memory(error):
                raise
            return self
        return replace(self, batches=batches) if _largest(logits - whole) <= _limit(whole) else self

    def _with_time_first(self, model: nn.Module, whole: Tensor) -> FirstForwards | None:
        """The same with the second axis of inputs made the first, where the examples lie there; None elsewhere."""
        shapes = [tuple(tensor.shape) for tensor in flat_tensors(self.batches[0].content) if not tensor.is_nested]
        second = [at for at, shape in enumerate(shapes) if len(shape) > 1 and shape[1] == len(whole)]
        places = frozenset([at for at in second if shapes[at][0] != len(whole)] or second)
        if not places:
            return None
        forward = _TimeFirst(self.call, places)
        try:
            batches = tuple(_turned_batch(batch, places) for batch in self.batches)
        except ValueError:
            return None
        apart = _apart(model, forward, batches[0].content, whole)
        return replace(self, forward=forward, batches=batches) if apart is not None and apart <= _limit(whole) else None


@dataclass(frozen=True)
class _TimeFirst:
    """A forward for contents whose tensors at some places have their first two axes exchanged."""

    call: Forward
    places: frozenset[int]

    def __call__(self, model: nn.Module, content: Any) -> Tensor:
        return self.call(model, _turned(content, self.places))


def _turned(content: Any, places: frozenset[int]) -> Any:
    """The content with the first two axes exchanged of the tensors at these places in it."""
    position = itertools.count()
    return map_tensors(content, lambda tensor: tensor.transpose(0, 1) if next(position) in places else tensor)


def _turned_batch(batch: ProbeBatch, places: frozenset[int]) -> ProbeBatch:
    examples = len(batch.targets)
    found = flat_tensors(batch.content)
    if any(found[at].shape[1] != examples for at in places):
        raise ValueError("batches of different kinds")
    content = _turned(batch.content, places)
    tensors = [tensor for at, tensor in enumerate(flat_tensors(content)) if at in places]
    inputs = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
    return replace(batch, content=content, inputs=inputs, no_inputs="" if inputs is not None else batch.no_inputs)


def _logits(model: nn.Module, forward: Forward, content: Any, examples: int) -> Tensor:
    return logits_of(forward(model, handed_out(content)), examples)


def _apart(model: nn.Module, forward: Forward, content: Any, whole: Tensor) -> float | None:
    """By how much logits of a part of the samples alone differ from those in the whole; None where there are none.

    The part is the first half. Of one sample, and of two that cannot be halved, it is the first one twice.
    """
    examples = len(whole)
    twice = torch.zeros(2, dtype=torch.long)
    parts = [torch.arange((examples + 1) // 2)] if examples > 1 else []
    for rows in [*parts, twice] if examples < 3 else parts:
        try:
            alone = _logits(model, forward, rows_of(content, rows, examples), len(rows))
        except Exception as error:  # whatever the model raises on a part of a batch
            if out_of_memory(error):
                raise
        else:
            return _largest(alone - whole[rows.to(whole.device)])
    return None


def _apart_when_joined(model: nn.Module, forward: Forward, batches: Sequence[ProbeBatch], whole: Tensor) -> float:
    """By how much logits of a single first sample differ when the next batch joins it; zero where it cannot."""
    if len(whole) > 1 or len(batches) < 2:
        return 0.0
    more = len(batches[1].targets)
    try:
        both = joined(batches[0].content, batches[1].content, 1, more)
        return _largest(_logits(model, forward, both, 1 + more)[:1] - whole)
    except Exception as error:  # contents that do not fit together
        if out_of_memory(error):
            raise
        return 0.0


def _with_floats(batch: ProbeBatch) -> ProbeBatch | None:
    """The batch with floats for its images of bytes; None where it has none."""
    images = _images_of_bytes(batch)
    if images is None:
        return None
    floats = images.float()
    return replace(batch, content=exchange(batch.content, images, floats), inputs=floats, no_inputs="")


def _images_of_bytes(batch: ProbeBatch) -> Tensor | None:
    """The images in a batch that has integers only."""
    if batch.inputs is not None:
        return None
    images = (each for each in flat_tensors(batch.content) if each.dtype == torch.uint8 and each.ndim == 4)
    return next((each for each in images if len(each) == len(batch.targets)), None)


def _limit(logits: Tensor) -> float:
    """How far equal logits may be apart by rounding."""
    rounding = _LOW_PRECISION if logits.dtype in (torch.float16, torch.bfloat16) else _APART
    return rounding * _largest(logits) + _ABSOLUTE


def _largest(numbers: Tensor) -> float:
    """The largest magnitude; zero where one is not finite, because nothing can be said of such logits."""
    found = float(numbers.abs().max())
    return found if math.isfinite(found) else 0.0


def _is_random(model: nn.Module, forward: Forward, content: Any, whole: Tensor) -> bool:
    """Whether the same content gives other logits at a second call."""
    return _largest(_logits(model, forward, content, len(whole)) - whole) > _limit(whole)


def _has_parts_of_its_own(content: Any, examples: int) -> bool:
    """Whether tensors without the examples on their first axis stand beside the others, as in offset bags."""
    return any(tensor.is_nested or (tensor.ndim and len(tensor) != examples) for tensor in flat_tensors(content))


def _is_plain(content: Any) -> bool:
    """Whether a batch holds tensors in nothing but tuples, lists and dictionaries."""
    if type(content) in (tuple, list):
        return all(_is_plain(part) for part in content)
    if type(content) is dict:
        return all(_is_plain(part) for part in content.values())
    return isinstance(content, Tensor | str | int | float | None)
