"""The weights of a run before training and at its snapshots: a new measure then needs no new training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_gengap.errors import TableError
from lightning_gengap.network.probe import copy_state


class Weights:
    """Parameters and buffers by epoch. Epoch 0 is before the first step."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[np.generic]] = {}

    def add(self, epoch: int, model: nn.Module) -> None:
        """Copy the model's state."""
        for name, value in copy_state(model).items():
            self._arrays[f"{epoch}/{name}"] = value.numpy()

    def at(self, epoch: int) -> dict[str, Tensor]:
        """The state after `epoch`."""
        begin = f"{epoch}/"
        return {key[len(begin) :]: torch.tensor(value) for key, value in self._arrays.items() if key.startswith(begin)}

    def write(self, path: Path) -> None:
        """Write one uncompressed .npz archive, in one step: it is complete or not there."""
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **self._arrays)  # type: ignore[arg-type]
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Weights:
        """Read what `write` wrote; a TableError says how to keep weights where there are none."""
        if not path.is_file():
            raise TableError(
                f"run {path.stem}",
                got="no weights",
                expected=str(path),
                remedy="`gengap zoo run --keep-weights` first.",
            )
        weights = cls()
        with np.load(path, allow_pickle=False) as archive:
            weights._arrays = dict(archive)
        return weights
