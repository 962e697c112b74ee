"""What repeated work leaves in this process: tensors, hooks, open files, text of compiled graphs, and memory."""

from __future__ import annotations

import gc
import linecache
import os
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules import module as torch_module


class Alive(NamedTuple):
    """Counts of what is alive; `resident` is the process's memory in bytes, 0 where there is no Linux."""

    tensors: int
    objects: int
    hooks: int
    files: int
    sources: int
    resident: int


def alive(model: nn.Module) -> Alive:
    gc.collect()
    tracked = gc.get_objects()
    tensors = sum(issubclass(type(thing), Tensor) for thing in tracked)  # `isinstance` would run lazy attributes
    statm, handles = Path("/proc/self/statm"), Path("/proc/self/fd")
    return Alive(
        tensors,
        len(tracked),
        sum(_hooks(part) for part in model.modules()) + _hooks(torch_module) + sum(map(_hooks, model.parameters())),
        len(list(handles.iterdir())) if handles.is_dir() else 0,
        len(linecache.cache),
        int(statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") if statm.is_file() else 0,
    )


def _hooks(holder: object) -> int:
    return sum(len(found) for name, found in vars(holder).items() if "_hooks" in name and isinstance(found, dict)) + (
        len(holder._backward_hooks or ()) if isinstance(holder, Tensor) else 0
    )
