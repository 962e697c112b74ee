"""Nothing of the monitor's ends a training: what fails under its hands is said once, and it is switched off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import wraps
from typing import Any, ParamSpec

from lightning.pytorch import Trainer
from torch import distributed

from lightning_gengap.errors import frameless, sentence
from lightning_gengap.monitor.run_state import RunState
from lightning_gengap.monitor.warning import rank_zero_warn

P = ParamSpec("P")


@contextmanager
def contained(state: RunState, what: str) -> Iterator[None]:
    """Switch the monitor off where the block fails, and go on behind it.

    It stands around what one rank does alone, so that this rank still takes part in what all do together. The others
    learn of it at the end of the epoch, see `all_are_on`.
    """
    try:
        yield
    except Exception as error:
        if state.raises:
            raise
        give_up(state, frameless(error), f"{what} failed: ")


def harmless(hook: Callable[P, None]) -> Callable[P, None]:
    """Let no failure of this hook end the training, and no context variable stay set that is set in it."""

    @wraps(hook)
    def safe(*args: P.args, **kwargs: P.kwargs) -> None:
        monitor: Any = args[0]
        try:
            copy_context().run(hook, *args, **kwargs)
        except Exception as error:
            if monitor.on_error == "raise":
                raise
            if monitor._state is not None:
                give_up(monitor._state, frameless(error), f"its hook {hook.__name__} failed: ")

    return safe


def give_up(state: RunState, error: Exception, what: str = "") -> None:
    """Switch the monitor off for the rest of the training, and say why, unless the user knows of a failure."""
    state.switch_off(f"{type(error).__name__}: {error}")
    if not state.warned:
        rank_zero_warn(
            f"GapMonitor is switched off: {what}{sentence(error)} Training goes on unchanged. "
            "GapMonitor(on_error='raise') shows the traceback."
        )
    state.warned = True


def all_are_on(trainer: Trainer, state: RunState) -> bool:
    """Whether the monitor is on, on every rank. Where it is off on one, it is switched off on all."""
    agree = trainer.strategy.reduce_boolean_decision
    if agree(state.off is None, all=True):
        return True
    if agree(state.off is None, all=False):  # some are on: they learn it now
        error = of_another_rank(state.off)
        if state.off is None:
            give_up(state, error)
    return False


def of_another_rank(cause: str | None) -> RuntimeError:
    """The error that stands for a failure on another rank. All ranks call it together, with what failed on each."""
    causes: list[str | None] = [cause]
    if distributed.is_available() and distributed.is_initialized():
        causes *= distributed.get_world_size()
        distributed.all_gather_object(causes, cause)
    failed = next(((rank, cause) for rank, cause in enumerate(causes) if cause is not None), None)
    return RuntimeError(
        "another rank failed." if failed is None else f"another rank failed (rank {failed[0]}): {failed[1]}"
    )
