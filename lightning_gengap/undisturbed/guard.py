"""The one guard: measure a model in training and leave no trace."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from lightning_gengap.undisturbed.random_streams import random_streams_kept
from lightning_gengap.undisturbed.settings import eagerly, full_float32, settings_kept, without_fast_paths
from lightning_gengap.undisturbed.silence import silenced
from lightning_gengap.undisturbed.snapshot import Snapshot


@contextmanager
def undisturbed(model: nn.Module, *others: Any) -> Iterator[None]:
    """Run a block on `model` in eval mode, and restore everything that the block may have changed.

    Inside, every submodule is in eval mode, gradients are enabled, inference mode and autocast are off, float32
    matrix products have full precision, compiled modules run eagerly, and transformers take no fast path.

    On exit, also after an exception, everything is as before that `state_kept` keeps, in `others` too.

    Example:
        >>> import torch
        >>> from lightning_gengap.undisturbed import undisturbed
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout())
        >>> with undisturbed(model):
        ...     outputs = model(torch.randn(8, 4))
        >>> model.training, int(model[1].num_batches_tracked)
        (True, 0)
    """
    with ExitStack() as stack:
        stack.enter_context(state_kept(model, *others))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device_type in {"cpu", *(parameter.device.type for parameter in model.parameters())} - {"meta"}:
            stack.enter_context(torch.autocast(device_type, enabled=False, cache_enabled=False))
        stack.enter_context(full_float32())
        stack.enter_context(eagerly())
        stack.enter_context(without_fast_paths())
        for module in model.modules():
            if type(module).__setattr__ is nn.Module.__setattr__:
                module.__dict__["training"] = False  # what `Module.__setattr__` does, ten times as fast
            else:
                module.training = False
        yield


@contextmanager
def state_kept(model: nn.Module, *others: Any) -> Iterator[None]:
    """Run a block that may call code of the user's, and restore everything that it may have changed.

    The mode of each submodule stays as it is, for hooks that must run as they do in training. Inside, no backward hook
    of the user's fires, and nothing is logged to a Trainer.

    On exit, also after an exception, these are as before, each in the same object: modes; parameters, buffers and
    gradients; the attributes of every module, and what they hold, such as counters, containers, arrays, metrics,
    random generators and plain objects; what global hooks hold; the global random streams; settings of the process.
    Nothing is written where nothing changed.

    Parameters of more than 256 MiB together are watched instead of copied. What belongs to a Trainer, an optimizer, a
    logger, a data set, a file or a thread is not looked at.

    Args:
        model: its submodules, and all objects that they reach, are kept.
        others: further objects that the block may change, such as a data module.

    Raises:
        RuntimeError: something could not be restored; everything else was. Or the code of the user's asked Python to
            exit, or raised something else that is no `Exception`: what is only measured ends nothing.
    """
    snapshot = Snapshot(model, *others)
    try:
        with random_streams_kept(), settings_kept(), silenced(model):
            yield
    except BaseException as error:
        snapshot.restore()
        if isinstance(error, Exception | KeyboardInterrupt | GeneratorExit) or _is_of_a_signal(error):
            raise
        raise RuntimeError(f"it raised {type(error).__name__}({error})") from error
    failures = snapshot.restore()
    if failures:
        raise RuntimeError(f"what the forward changed could not be undone: {'; '.join(failures[:3])}.")


def _is_of_a_signal(error: BaseException) -> bool:
    """Whether the handler of a signal has raised this: somebody outside wants the process to end."""
    handlers = (signal.getsignal(number) for number in signal.valid_signals())
    functions = (getattr(handler, "__func__", handler) for handler in handlers)
    codes = {getattr(function, "__code__", None) for function in functions}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))
