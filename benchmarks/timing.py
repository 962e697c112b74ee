"""How the benchmarks time: works run in turn, so that a busy machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def seconds(work: Callable[[], object]) -> float:
    """Seconds of the clock on a GPU or with several threads.

    With one thread they are seconds of the processor, on which a busy machine has less influence.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    synchronise = torch.cuda.synchronize if cuda else torch.mps.synchronize if mps else lambda: None
    now = time.perf_counter if cuda or mps or torch.get_num_threads() > 1 else time.process_time
    synchronise()
    started = now()
    work()
    synchronise()
    return now() - started


def in_turn(works: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """By round, the seconds of every work. A first round warms up and is not among them."""
    return [[seconds(work) for work in works] for _ in range(rounds + 1)][1:]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def machine() -> str:
    """Version of torch, device and number of threads."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads"
