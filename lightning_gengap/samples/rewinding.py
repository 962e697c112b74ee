"""Files and random streams: read from where they stand, without moving them."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def rewinding(stream: Any) -> Callable[[], Any]:
    """What brings a generator back to where it stands now."""
    if isinstance(stream, random.Random):
        return partial(stream.setstate, stream.getstate())
    if isinstance(stream, np.random.Generator):
        return partial(setattr, stream.bit_generator, "state", stream.bit_generator.state)
    return partial(stream.set_state, stream.get_state())


def opened_again(file: io.IOBase) -> tuple[Any, io.FileIO] | None:
    """The file opened once more at the same offset, and the handle to close.

    An offset that is shared would move under the user's own reads, in this process and in those that were forked off.
    None where the file is not open for reading from disk alone, or its name no longer leads to it.
    """
    raw: Any = file.buffer if isinstance(file, io.TextIOWrapper) else file
    raw = raw.raw if isinstance(raw, io.BufferedReader) else raw
    if not isinstance(raw, io.FileIO) or raw.mode != "rb":
        return None
    try:
        handle = io.FileIO(raw.name, "rb")
    except (OSError, TypeError):
        return None
    if not os.path.samestat(os.fstat(handle.fileno()), os.fstat(raw.fileno())):
        handle.close()
        return None
    made: Any = handle if file is raw else io.BufferedReader(handle)
    if isinstance(file, io.TextIOWrapper):
        made = io.TextIOWrapper(made, file.encoding, file.errors)
    made.seek(file.tell())
    return made, handle
