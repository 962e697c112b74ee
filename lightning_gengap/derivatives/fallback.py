"""Products with derivatives by the fastest way that works, and by one that takes less memory where it did not."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from lightning_gengap.derivatives.jacobian import DOUBLE_BACKWARD, LINEARISATION, REBUILT
from lightning_gengap.derivatives.memory import room_for
from lightning_gengap.derivatives.weights import kept_for_each_sample
from lightning_gengap.errors import Undefined, one_line, out_of_memory
from lightning_gengap.network.probe import Probe
from lightning_gengap.network.subsample import CHUNK

Built = TypeVar("Built")
Result = TypeVar("Result")

GRAPHS = 3  # activations are kept for J and for its transpose, with masks and the like up to three times in all


class Step(NamedTuple):
    """A way to take products: one of `jacobian.METHODS`, and how many samples are differentiated at once."""

    method: str
    chunk: int

    def __str__(self) -> str:
        return f"{self.method}, {self.chunk} samples at once" if self.method == REBUILT else self.method

    def held(self, samples: int) -> int:
        """The samples whose graphs are in memory at once, of so many in all."""
        return min(self.chunk, samples) if self.method == REBUILT else samples


# Every step takes less memory and more time than the one before it.
LADDER = (
    Step(LINEARISATION, CHUNK),
    Step(DOUBLE_BACKWARD, CHUNK),
    *(Step(REBUILT, chunk) for chunk in (CHUNK, 32, 4, 1)),
)


class UnsupportedError(Exception):
    """A method that cannot differentiate this model, whatever the memory."""


@dataclass
class Fallback(Generic[Built]):
    """Products by the first step of a ladder that works; what failed once is not tried again.

    Attributes:
        build: makes what takes the products at a step; it raises `UnsupportedError` where the method fails.
        keys: what the products are for, in remarks.
        samples: how many are differentiated.
        steps: those that are left; the first is in use.
        built: what was made at the first step.
        causes: why steps failed since the last success.
        reason: why there are no products, once no step is left.
    """

    build: Callable[[Probe, Step], Built]
    keys: str
    samples: int
    steps: tuple[Step, ...] = LADDER
    built: Built | None = None
    causes: list[str] = field(default_factory=list)
    reason: str = ""

    def use(self, probe: Probe, work: Callable[[Built], Result]) -> Result:
        """What `work` makes of the products. It starts again at the next step where memory runs out.

        Raises:
            Undefined: no step is left.
        """
        while self.steps:
            step, supported = self.steps[0], True
            try:
                if self.built is None:
                    _require_room(probe, step.held(self.samples))
                    self.built = self.build(probe, step)
                result = work(self.built)
            except UnsupportedError as error:
                cause, supported = str(error), False
            except Exception as error:
                if not out_of_memory(error):
                    raise
                cause = one_line(error)
            else:
                self._remark(probe, step)
                return result
            # Outside of the handlers: the traceback would keep what has to be freed.
            self._leave(step, cause, supported)
        raise Undefined(self.reason)

    def _leave(self, step: Step, cause: str, supported: bool) -> None:
        """Free what was built, and drop the step, or all steps of a method that is unsupported."""
        self.built = None
        self.causes.append(cause)
        self.steps = tuple(other for other in self.steps[1:] if supported or other.method != step.method)
        if not self.steps and supported:
            self.reason = f"even one sample at a time does not fit ({cause})"
        elif not self.steps:
            self.reason = f"the model cannot be differentiated twice ({self._causes})"
        gc.collect()  # graphs and their closures refer to each other

    def _remark(self, probe: Probe, step: Step) -> None:
        if self.causes:
            probe.notes.append(f"{self.keys} takes longer by {step}, a faster way is absent: {self._causes}")
            self.causes.clear()

    @property
    def _causes(self) -> str:
        return "; ".join(dict.fromkeys(self.causes))


def _require_room(probe: Probe, samples: int) -> None:
    """Refuse graphs that do not fit into what is left of the CPU's memory; a device says itself when it is full."""
    on_cpu = all(weight.device.type == "cpu" for weight in probe.model.parameters())
    if on_cpu and not room_for(GRAPHS * samples * probe.cached(kept_for_each_sample)):
        which = "the graph of one sample" if samples == 1 else f"graphs of {samples} samples"
        raise MemoryError(f"{which} would not fit into memory")


@contextmanager
def unsupported_where_it_fails(method: str) -> Iterator[None]:
    """Turn every failure of the block but a lack of memory into `UnsupportedError`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, Undefined) or out_of_memory(error):
            raise
        raise UnsupportedError(f"{method}: {one_line(error)}") from error


@contextmanager
def undefined_where_it_fails() -> Iterator[None]:
    """Raise `Undefined`, with the error in one line, where the block fails in any way."""
    try:
        yield
    except Undefined:
        raise
    except Exception as error:
        raise Undefined(one_line(error)) from error


@contextmanager
def undefined_without_memory() -> Iterator[None]:
    """Raise `Undefined` where memory does not suffice for the block."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise Undefined(one_line(error)) from error
