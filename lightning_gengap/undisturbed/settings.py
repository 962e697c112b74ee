"""Global settings: those that a measurement needs otherwise, and those that a user's forward may change."""

from __future__ import annotations

import decimal
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch

Switch = tuple[Callable[[Any], None], Any, Any]


@contextmanager
def settings_kept() -> Iterator[None]:
    """Restore what a forward may have set for the whole process."""
    filters, folder = list(warnings.filters), _folder()
    kept: list[tuple[Callable[[Any], Any], Callable[[], Any], Any]] = [
        (write, read, read()) for write, read in _SETTINGS
    ]
    try:
        yield
    finally:
        for write, read, before in kept:
            if read() != before:
                write(before)
        if list(warnings.filters) != filters:
            with suppress(AttributeError):  # a read-only sequence of a later Python
                warnings.filters[:] = filters  # type: ignore[index]
                warnings._filters_mutated()  # type: ignore[attr-defined]
        if folder is not None and _folder() != folder:
            os.chdir(folder)


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _precision() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # set through the `fp32_precision` of torch >= 2.9, which refuses to be mixed with this
        return None


def _set_precision(value: str | None) -> None:
    if value is not None:
        torch.set_float32_matmul_precision(value)


def _set_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _decimals() -> tuple[decimal.Context, dict[str, Any]]:
    """The context of decimal numbers, and how it is set. Two contexts are never equal."""
    context = decimal.getcontext()
    held = {name: getattr(context, name) for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")}
    return context, held | {"traps": dict(context.traps), "flags": dict(context.flags)}


def _set_decimals(before: tuple[decimal.Context, dict[str, Any]]) -> None:
    context, held = before
    for name, value in held.items():
        setattr(context, name, value)
    decimal.setcontext(context)


_SETTINGS: tuple[tuple[Callable[[Any], Any], Callable[[], Any]], ...] = (
    (torch.set_default_dtype, torch.get_default_dtype),
    (torch.set_num_threads, torch.get_num_threads),
    (torch.autograd.set_detect_anomaly, torch.is_anomaly_enabled),
    (
        _set_deterministic,
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
    ),
    (_set_precision, _precision),
    (lambda errors: np.seterr(**errors), np.geterr),
    (_set_decimals, _decimals),
    (sys.setrecursionlimit, sys.getrecursionlimit),
    (_set_environment, lambda: dict(os.environ)),
)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


@contextmanager
def full_float32() -> Iterator[None]:
    """Switch TF32 and bfloat16 products off: their short mantissas would spoil small margins."""
    switches = [(switch, before, full) for switch, before, full in _float32_switches() if before != full]
    try:
        for switch, _, full in switches:  # what has full precision already is left alone, and keeps its default
            switch(full)
        yield
    finally:
        for switch, before, _ in switches:
            switch(before)


def _float32_switches() -> list[Switch]:
    """Every switch of precision: how to set it, what it is now, and what stands for full precision."""
    backends: Any = torch.backends
    try:
        switches: list[Switch] = [(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision(), "highest")]
        if torch.cuda.is_initialized():
            switches.append((partial(setattr, backends.cudnn, "allow_tf32"), backends.cudnn.allow_tf32, False))
        return switches
    except RuntimeError:  # set through the `fp32_precision` of torch >= 2.9, which refuses to be mixed with these
        operations = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
        return [(partial(setattr, each, "fp32_precision"), each.fp32_precision, "ieee") for each in operations]


@contextmanager
def eagerly() -> Iterator[None]:
    """Run compiled modules eagerly: hooks do not fire in compiled graphs, and derivatives do not pass them."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # torch >= 2.6
    with set_stance("force_eager") if set_stance is not None else _compiler_kept_out():
        yield


@contextmanager
def _compiler_kept_out() -> Iterator[None]:
    """Let compiled code call no compiler: what the stance does, before torch 2.6."""
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is None:  # nothing is compiled yet
        yield
        return
    places: tuple[Any, Any] = (dynamo, torch._C._dynamo.eval_frame)  # torch 2.4 calls the one, 2.5 the other
    before = [place.set_eval_frame for place in places]
    for place in places:
        place.set_eval_frame = lambda callback, hand_to=before[-1]: hand_to(None)
    try:
        yield
    finally:
        for place, function in zip(places, before, strict=True):
            place.set_eval_frame = function


@contextmanager
def without_fast_paths() -> Iterator[None]:
    """Switch off the fast path of transformers in eval mode: it makes nested tensors, and hooks do not see inside."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
