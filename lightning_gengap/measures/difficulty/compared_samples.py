"""What closed-form classifiers are given: not more samples, nor larger images, than can be compared in a minute."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lightning_gengap.derivatives.memory import require_room
from lightning_gengap.errors import Undefined
from lightning_gengap.network.probe import Probe

MOST_SAMPLES = 4096  # an eigendecomposition of that side takes half a minute of one core
MOST_SIDE = 64  # pixels
FEWEST_PER_CLASS = 5


class Compared(NamedTuple):
    """The samples that are compared with each other.

    Attributes:
        rows: their places in the probe, ascending.
        targets: their class indices; where these are larger than the number of samples, the ranks of them.
    """

    rows: Tensor
    targets: Tensor

    def of(self, rows: Tensor) -> Tensor:
        """Their rows among those of all samples; no copy where these are all."""
        return rows if len(self.rows) == len(rows) else rows[self.rows.to(rows.device)]


def compared(probe: Probe) -> Compared:
    """All samples, or 4,096 that are drawn by the probe's seed.

    Raises:
        Undefined: there are fewer than five samples per class that is present.
    """
    count = len(probe.targets)
    rows = torch.arange(count)
    if count > MOST_SAMPLES:
        generator = torch.Generator().manual_seed(probe.seed)
        rows = torch.randperm(count, generator=generator)[:MOST_SAMPLES].sort().values
    targets = probe.targets[rows]
    present, ranks = targets.unique(return_inverse=True)
    if len(rows) < FEWEST_PER_CLASS * len(present):
        enough = FEWEST_PER_CLASS * (int(present[-1]) + 1)
        raise Undefined(f"{len(rows)} samples of {len(present)} classes are too few; samples={enough} are enough")
    return Compared(rows, ranks if int(present[-1]) >= len(rows) else targets)


def compared_inputs(probe: Probe, rows: Tensor) -> Tensor | None:
    """The inputs of these samples in one tensor, on their device; None where there are none, or shapes differ.

    Images of more than 64 pixels a side are averaged down to 64. Their distances and their patches would take minutes
    and gigabytes at 224 pixels, and tell more of texture than of what is to be seen.

    Raises:
        Undefined: they do not fit into memory.
    """
    inputs = probe.inputs
    if inputs is None:
        return None
    parts: list[Tensor] = []
    start = 0
    for part in inputs:
        own = rows[(rows >= start) & (rows < start + len(part))] - start
        start += len(part)
        small = shrunk(part if len(own) == len(part) else part[own.to(part.device)])
        if not parts:
            number = small.element_size() * small.shape[1:].numel()
            require_room(2 * number * len(rows), "the inputs of all samples together")
        parts.append(small)
    return torch.cat(parts)


def shrunk(inputs: Tensor) -> Tensor:
    """The inputs, images of no more than 64 pixels a side."""
    if inputs.ndim != 4 or max(inputs.shape[2:]) <= MOST_SIDE:
        return inputs
    height, width = (min(side, MOST_SIDE) for side in inputs.shape[2:])
    precise = inputs if inputs.dtype == torch.float64 else inputs.float()
    return adaptive_avg_pool2d(precise, (height, width))
