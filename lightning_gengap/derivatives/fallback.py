"""Work on the curvature by the fastest way that memory allows, and again with less of it where it did not suffice."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lightning_gengap.derivatives.gauss_newton import SAMPLES, Curvature, dual_curvature, kept_for_each_sample
from lightning_gengap.derivatives.memory import room_for
from lightning_gengap.errors import one_line, out_of_memory
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.subsample import CHUNK

Result = TypeVar("Result")

REBUILT = 3  # the rung that keeps nothing between products
# Samples a chunk and the first rung to try; each asks for less memory than the one before.
FRUGALITY = ((CHUNK, 1), (CHUNK, REBUILT), (32, REBUILT), (4, REBUILT), (1, REBUILT))
GRAPHS = 3  # activations are kept for J and for its transpose, with masks and the like up to three times in all


@dataclass
class CurvatureInMemory:
    """The curvature of at most `most` samples, by the fastest way that has fitted into memory so far.

    Attributes:
        frugality: index of that way in `FRUGALITY`.
        curvature: None before it is built, and where it is absent.
        absent: whether there is none, which a note says.
        cause: of a lack of memory that has made it absent.
    """

    most: int
    frugality: int = 0
    curvature: Curvature | None = None
    absent: bool = False
    cause: str = ""

    def of(self, probe: Probe) -> Curvature | None:
        """The curvature, built where it is not yet.

        Raises:
            RuntimeError, MemoryError: out of memory.
        """
        if self.curvature is None and not self.absent and self.frugality == 0:
            self._fit_in(probe)
        if self.curvature is None and not self.absent:
            self.curvature = dual_curvature(probe, self.most, *FRUGALITY[self.frugality])
            self.absent = self.curvature is None
        return self.curvature

    def _fit_in(self, probe: Probe) -> None:
        """Begin with the first way that fits into memory."""
        count = min(self.most, len(probe.targets))
        cause = f"graphs of {count} samples would not fit into memory"
        held = [count, *(min(chunk, count) for chunk, _ in FRUGALITY[1:])]
        self.frugality = next((way for way, samples in enumerate(held) if fits(probe, samples)), len(FRUGALITY))
        self.absent = self.frugality == len(FRUGALITY)
        self.cause = cause if self.absent else ""
        if self.frugality and not self.absent:
            probe.notes.append(_less(self.frugality, cause))

    def lowered(self, cause: str) -> bool:
        """Let go of the curvature and ask for less memory from now on; False where nothing less is known."""
        # A failed set-up has tried the last rung too.
        rebuilt = self.curvature is None or self.curvature.rung == REBUILT
        self.curvature = None
        self.frugality += 2 if rebuilt and self.frugality == 0 else 1
        self.absent = self.frugality >= len(FRUGALITY)
        self.cause = cause if self.absent else ""
        gc.collect()  # graphs and their closures refer to each other
        return not self.absent


def sampled(probe: Probe) -> CurvatureInMemory:
    """On at most `SAMPLES` of the probe's samples, drawn by its seed."""
    return CurvatureInMemory(SAMPLES)


def whole(probe: Probe) -> CurvatureInMemory:
    """On all of the probe's samples."""
    return CurvatureInMemory(len(probe.targets))


def with_curvature(
    probe: Probe,
    name: str,
    work: Callable[[Curvature], Result],
    samples: Callable[[Probe], CurvatureInMemory] = sampled,
) -> Result | None:
    """What `work` makes of the curvature; where memory runs out in a product, it starts again with less at once.

    None, with a note that names the absent quantity `name` and the cause, where the curvature is absent, its products
    are not finite, or memory does not suffice for one sample at a time.
    """
    attempt = probe.cached(samples)
    while True:
        try:
            curvature = attempt.of(probe)
            if curvature is not None:
                return work(curvature)
            if attempt.cause:
                probe.notes.append(f"{name} is absent: even one sample at a time does not fit ({attempt.cause})")
            return None
        except ArithmeticError as error:
            probe.notes.append(f"{name} is absent: {one_line(error)}")
            return None
        except Exception as error:
            if not out_of_memory(error):
                raise
            cause = one_line(error)
        # Outside of the handler: the traceback would keep what has to be freed.
        curvature = None
        if attempt.lowered(cause):
            probe.notes.append(_less(attempt.frugality, cause))


def _less(frugality: int, cause: str) -> str:
    less = f"graphs rebuilt for every product, {FRUGALITY[frugality][0]} samples at once"
    return f"curvature/* takes longer by {less}, a faster way is absent: {cause}"


def fits(probe: Probe, samples: int) -> bool:
    """Whether graphs of that many samples fit into what is left of the CPU's memory; a device says when it is full."""
    if any(weight.device.type != "cpu" for weight in probe.model.parameters()):
        return True
    return room_for(GRAPHS * samples * probe.cached(kept_for_each_sample))


def unless_out_of_memory(probe: Probe, name: str, work: Callable[[], Result]) -> Result | None:
    """The result of `work`; None, with a note that names the absent quantity, where memory does not suffice."""
    try:
        return work()
    except Exception as error:
        if not out_of_memory(error):
            raise
        probe.notes.append(f"{name} is absent: {one_line(error)}")
        return None
