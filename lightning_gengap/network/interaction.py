"""Whether the samples of a batch interact: whether the logits of a part alone are those in the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_gengap.errors import out_of_memory
from lightning_gengap.network.logits import logits_of
from lightning_gengap.samples.batches import Forward, ProbeBatch
from lightning_gengap.samples.nested import handed_out, joined, rows_of

_ROUNDING = 1e-4  # of a sample's largest logit: far above what the size of a batch does to rounding
_LOW_PRECISION = 5e-2  # the same, of models in half precision
_ABSOLUTE = 1e-5
_AMPLIFIED = 100.0  # times as much is still rounding, of a network that amplifies it, where other samples do not matter


class Distance(NamedTuple):
    """How far logits are from those that are expected.

    Attributes:
        roundings: the largest, as a multiple of what rounding may do to the logits of such a sample.
        largest: of all logits that are finite in both; of others nothing can be said.
    """

    roundings: float = 0.0
    largest: float = 0.0

    @classmethod
    def of(cls, found: Tensor, expected: Tensor) -> Distance:
        """The distance of logits from others of the same samples, shape (samples, classes)."""
        rounding = _LOW_PRECISION if expected.dtype in (torch.float16, torch.bfloat16) else _ROUNDING
        found, expected = (logits if logits.dtype == torch.float64 else logits.float() for logits in (found, expected))
        apart = (found - expected).abs().nan_to_num(0.0, 0.0)
        sizes = expected.abs().nan_to_num(0.0, 0.0).amax(dim=1, keepdim=True)
        roundings = apart / (rounding * sizes + _ABSOLUTE)
        return cls(*torch.stack([roundings.max(), apart.max()]).tolist())

    @property
    def is_rounding(self) -> bool:
        """Whether the logits are equal but for rounding."""
        return self.roundings <= 1.0


def distance_alone(model: nn.Module, forward: Forward, content: Any, whole: Tensor) -> Distance | None:
    """How far logits of a part of the samples alone are from those in the whole; None where there are none.

    The part is the first half. Of one sample, and of two that cannot be halved, it is the first one twice.
    """
    examples = len(whole)
    twice = torch.zeros(2, dtype=torch.long)
    parts = [torch.arange((examples + 1) // 2)] if examples > 1 else []
    for rows in [*parts, twice] if examples < 3 else parts:
        try:
            alone = called(model, forward, rows_of(content, rows, examples), len(rows))
        except Exception as error:  # whatever the model raises on a part of a batch
            if out_of_memory(error):
                raise
        else:
            return Distance.of(alone, whole[rows.to(whole.device)])
    return None


def distance_when_joined(model: nn.Module, forward: Forward, batches: Sequence[ProbeBatch], whole: Tensor) -> Distance:
    """How far logits of a single first sample move when the next batch joins it; zero where it cannot."""
    if len(whole) > 1 or len(batches) < 2:
        return Distance()
    more = len(batches[1].targets)
    try:
        both = joined(batches[0].content, batches[1].content, 1, more)
        return Distance.of(called(model, forward, both, 1 + more)[:1], whole)
    except Exception as error:  # contents that do not fit together
        if out_of_memory(error):
            raise
        return Distance()


def is_amplified_rounding(model: nn.Module, forward: Forward, content: Any, whole: Tensor, apart: Distance) -> bool:
    """Whether a distance that is not large comes from the size of the batch, and not from the samples in it.

    The first half comes a second time in place of the other samples. A batch of one size is computed in one way.
    """
    examples = len(whole)
    half = (examples + 1) // 2
    if examples == half or apart.roundings > _AMPLIFIED:
        return False
    try:
        twice = called(model, forward, rows_of(content, torch.arange(examples) % half, examples), examples)
    except Exception as error:  # whatever the model raises on other samples than those of a batch
        if out_of_memory(error):
            raise
        return False
    return Distance.of(twice[:half], whole[:half]).is_rounding


def is_random(model: nn.Module, forward: Forward, content: Any, whole: Tensor) -> bool:
    """Whether the same content gives other logits at a second call."""
    return not Distance.of(called(model, forward, content, len(whole)), whole).is_rounding


def called(model: nn.Module, forward: Forward, content: Any, examples: int) -> Tensor:
    """The logits of a content, of which the model gets a copy."""
    return logits_of(forward(model, handed_out(content)), examples)
