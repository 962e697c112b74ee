"""One row per sample, gathered on the device over batches and moved to the CPU together."""

from __future__ import annotations

import torch
from torch import Tensor

HELD = 2**26  # bytes that wait on the device


class Rows:
    """What batches give, one row per sample.

    The CPU waits for the device whenever it reads from it, and the device then stands idle. So rows leave it once for
    all batches, or whenever 64 MiB of them wait. Rows that are on the CPU already are only put together.

    Example:
        >>> rows = Rows()
        >>> for batch in torch.arange(4.0).reshape(2, 2, 1):
        ...     rows.add(batch)
        >>> rows.on_cpu().flatten().tolist()
        [0.0, 1.0, 2.0, 3.0]
    """

    def __init__(self) -> None:
        self._waiting: list[Tensor] = []
        self._moved: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Add those of one batch; the samples are on the first axis."""
        if rows.device.type == "cpu":
            self._moved.append(rows)
            return
        self._waiting.append(rows)
        if sum(part.numel() * part.element_size() for part in self._waiting) > HELD:
            self._move()

    def on_cpu(self) -> Tensor:
        """All rows, in the order of the batches."""
        self._move()
        return torch.cat(self._moved)

    def _move(self) -> None:
        if self._waiting:
            self._moved.append(torch.cat(self._waiting).cpu())
            self._waiting.clear()
