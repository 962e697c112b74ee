"""What the first forwards tell: how the network is called, and whether its samples can be computed apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gengap.errors import out_of_memory
from lightning_gengap.network.interaction import (
    Distance,
    called,
    distance_alone,
    distance_when_joined,
    is_amplified_rounding,
    is_random,
)
from lightning_gengap.network.logits import logits_of
from lightning_gengap.network.time_first import TimeFirst, turned_batch
from lightning_gengap.samples.batches import Forward, ProbeBatch, call_for
from lightning_gengap.samples.calling import chosen_forward
from lightning_gengap.samples.nested import INSEPARABLE, exchange, flat_tensors

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
                call, whole = forward, called(model, forward, first.content, examples)
            settled = cls(call, call, batches)._with_exchangeable_inputs(model, whole)._with_float_images(model, whole)
            apart = distance_alone(model, call, first.content, whole)
            if apart is None:
                return settled._with_time_first(model, whole) or settled._inseparable()
            apart = max(apart, distance_when_joined(model, call, batches, whole))
            if apart.is_rounding or is_amplified_rounding(model, call, first.content, whole, apart):
                return settled
            if is_random(model, call, first.content, whole):
                return replace(settled, remark=_RANDOM)
        if _has_parts_of_its_own(first.content, examples):
            return settled._inseparable()
        remark = (
            f"{_INTERACT}, where logits of a part of a chunk alone differ by {apart.largest:.2g} from the same ones in "
            f"the whole chunk, so all values depend on the chunks, here of size {examples}, and margins are those of "
            "whole chunks"
        )
        return replace(settled, interaction=_INTERACT, inseparable=_INTERACT, remark=remark)

    def separable(self, given: Sequence[ProbeBatch]) -> bool:
        """Whether the samples of the given batches can be put into another order without a change of any value."""
        turned = any(own.content is not batch.content for own, batch in zip(self.batches, given, strict=True))
        return self.inseparable is None and not (turned and isinstance(self.forward, TimeFirst))

    def settled(self, batch: ProbeBatch) -> ProbeBatch:
        """Another batch, made like `batches` from what the loader gave."""
        if isinstance(self.forward, TimeFirst):
            return turned_batch(batch, self.forward.places)
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
            moved = called(model, self.call, first.with_inputs(first.inputs.roll(1, 0)), len(whole))
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
            logits = called(model, self.call, batches[0].content, len(whole))
        except Exception as error:  # a network that needs integers
            if out_of_memory(error):
                raise
            return self
        return replace(self, batches=batches) if Distance.of(logits, whole).is_rounding else self

    def _with_time_first(self, model: nn.Module, whole: Tensor) -> FirstForwards | None:
        """The same with the second axis of inputs made the first, where the examples lie there; None elsewhere."""
        shapes = [tuple(tensor.shape) for tensor in flat_tensors(self.batches[0].content) if not tensor.is_nested]
        second = [at for at, shape in enumerate(shapes) if len(shape) > 1 and shape[1] == len(whole)]
        places = frozenset([at for at in second if shapes[at][0] != len(whole)] or second)
        if not places:
            return None
        forward = TimeFirst(self.call, places)
        try:
            batches = tuple(turned_batch(batch, places) for batch in self.batches)
        except ValueError:
            return None
        apart = distance_alone(model, forward, batches[0].content, whole)
        if apart is None or not apart.is_rounding:
            return None
        return replace(self, forward=forward, batches=batches)


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
