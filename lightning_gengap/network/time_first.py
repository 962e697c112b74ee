"""Batches with the examples on the second axis of their tensors, as recurrent layers want them by default."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from lightning_gengap.samples.batches import Forward, ProbeBatch
from lightning_gengap.samples.nested import flat_tensors, map_tensors


@dataclass(frozen=True)
class TimeFirst:
    """A forward for contents whose tensors at some places have their first two axes exchanged."""

    call: Forward
    places: frozenset[int]

    def __call__(self, model: nn.Module, content: Any) -> Tensor:
        """Call with a content that has the examples first."""
        return self.call(model, _turned(content, self.places))


def _turned(content: Any, places: frozenset[int]) -> Any:
    """The content with the first two axes exchanged of the tensors at these places in it."""
    position = itertools.count()
    return map_tensors(content, lambda tensor: tensor.transpose(0, 1) if next(position) in places else tensor)


def turned_batch(batch: ProbeBatch, places: frozenset[int]) -> ProbeBatch:
    """The batch with the first two axes exchanged of the tensors at these places in it.

    Raises:
        ValueError: the examples do not lie on the second axis of all of them.
    """
    examples = len(batch.targets)
    found = flat_tensors(batch.content)
    if any(found[at].shape[1] != examples for at in places):
        raise ValueError("batches of different kinds")
    content = _turned(batch.content, places)
    tensors = [tensor for at, tensor in enumerate(flat_tensors(content)) if at in places]
    inputs = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
    return replace(batch, content=content, inputs=inputs, no_inputs="" if inputs is not None else batch.no_inputs)
