"""The global random streams of Python, NumPy and torch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_streams_kept() -> Iterator[None]:
    """Restore the Python, NumPy, CPU and accelerator random streams on exit, also after an exception.

    On CUDA the block draws from copies. To set a CUDA stream, even to where it stands, would make the next recurrent
    layer with dropout draw its masks anew, because cuDNN keeps those of its own.
    """
    python_state, numpy_state, cpu_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = list(torch.cuda.default_generators) if torch.cuda.is_initialized() else []
    cuda_states = [generator.graphsafe_get_state() for generator in cuda]
    mps_state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        for generator in cuda:
            generator.graphsafe_set_state(generator.clone_state())
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu_state)
        for generator, state in zip(cuda, cuda_states, strict=True):
            generator.graphsafe_set_state(state)
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)
