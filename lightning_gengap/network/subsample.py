"""Samples of a probe drawn by its seed, in chunks of nested contents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_gengap.network.probe import Probe
from lightning_gengap.samples.nested import joined, rows_of

CHUNK = 256


def subsample(probe: Probe, most: int, chunk: int = CHUNK) -> tuple[list[Any], Tensor, tuple[int, ...]]:
    """At most `most` samples of the probe, the same for the same seed: contents by chunk, class indices, chunk sizes.

    They are drawn at random: the first ones would not do, for data may come sorted by class. Small batches are joined
    to chunks of up to `chunk` samples where their shapes allow, for each chunk is differentiated on its own. Batches
    that are larger are divided only where memory is short, which a `chunk` below `CHUNK` says.

    Raises:
        Undefined: the samples cannot be computed alone.
    """
    probe.require_separable()
    total = len(probe.targets)
    chosen = torch.arange(total)
    if total > most:
        generator = torch.Generator().manual_seed(probe.seed)
        chosen = torch.randperm(total, generator=generator)[:most].sort().values
    contents: list[Any] = []
    sizes: list[int] = []
    start = 0
    for batch in probe.batches:
        count = len(batch.targets)
        rows = chosen[(chosen >= start) & (chosen < start + count)] - start
        start += count
        if not len(rows):
            continue
        for part in rows.split(chunk) if chunk < CHUNK else (rows,):
            content = batch.content if len(part) == count else rows_of(batch.content, part, count)
            if sizes and sizes[-1] + len(part) <= chunk:
                try:
                    contents[-1] = joined(contents[-1], content, sizes[-1], len(part))
                    sizes[-1] += len(part)
                    continue
                except (RuntimeError, TypeError, ValueError, KeyError):  # ragged contents stay apart
                    pass
            contents.append(content)
            sizes.append(len(part))
    return contents, probe.targets[chosen], tuple(sizes)
