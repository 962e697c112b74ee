"""What the benchmarks share to time work that runs in turn with other work."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def seconds(work: Callable[[], object]) -> float:
    """Of the clock on a GPU or with several threads; of the processor with one, so that a busy machine counts less."""
    cuda = torch.cuda.is_available()
    now = time.perf_counter if cuda or torch.get_num_threads() > 1 else time.process_time
    if cuda:
        torch.cuda.synchronize()
    started = now()
    work()
    if cuda:
        torch.cuda.synchronize()
    return now() - started


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def machine() -> str:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads"
