"""One nested training: a deep copy of the module, a Trainer of its own, and nothing changed around it."""

from __future__ import annotations

import copy
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Subset

from lightning_gengap.errors import ConfigurationError, PartError, sentence
from lightning_gengap.learning_curves.part import Part
from lightning_gengap.learning_curves.readings import Found, Readable, Readings
from lightning_gengap.monitor.namespaces import TREES
from lightning_gengap.samples.batches import Forward
from lightning_gengap.samples.dataset_copy import private_copy
from lightning_gengap.samples.reader import SampleReader
from lightning_gengap.undisturbed import random_streams_kept
from lightning_gengap.undisturbed.settings import settings_kept
from lightning_gengap.zoo.train.silence_lightning import silence_lightning

_LEFT_OUT = frozenset({"Checkpoint", "ProgressBar", "ModelSummary"})
_LEFT_OUT |= {"LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor"}
_QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "devices": 1,
}


@dataclass(frozen=True)
class Recipe:
    """How every part is trained.

    Attributes:
        trainer: arguments of the Trainer.
        loader: arguments of the loader.
        validation: what `fit` gets for validation.
        forward: from module and batch to logits; None for the usual ways.
        reader: from a batch to its targets.
        seed: of all random streams, before each training.
    """

    trainer: Mapping[str, Any]
    loader: Mapping[str, Any]
    validation: Any
    forward: Forward | None
    reader: SampleReader
    seed: int


def train_part(
    module: LightningModule,
    dataset: Any,
    trained: Readable,
    held: Readable,
    recipe: Recipe,
    after_epoch: Callable[[], None],
) -> Part:
    """Train a copy of the module on the samples of `trained`, and read it on these and on those of `held`.

    Raises:
        ConfigurationError: the module or a callback cannot be copied, or the arguments suit no Trainer.
        PartError: the training failed. It names the part and the cause.
        KeyboardInterrupt: somebody has interrupted it.
    """
    size, started = len(trained.indices), time.perf_counter()
    readings = Readings(trained, held, recipe.reader, recipe.forward, after_epoch)
    with _nothing_changed(), private_copy((dataset, dict(recipe.loader))) as ((own, options), _):
        twin, trainer = copy_of(module), _trainer(module, recipe.trainer, readings)
        indices = [int(index) for index in trained.indices]
        loader = DataLoader(Subset(own, indices), **options)
        _seed(recipe.seed)
        try:
            trainer.fit(twin, loader, recipe.validation)
        except Exception as error:  # the user's code may raise anything
            raise _failed(size, sentence(error)) from error
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning then ends the process, which is not ours
                raise KeyboardInterrupt(f"in the training on {size} samples") from error
            raise
        if trainer.interrupted:  # Lightning before 2.5 says no more
            raise KeyboardInterrupt(f"in the training on {size} samples")
    return _part(readings.found, size, len(held.indices), time.perf_counter() - started)


def copy_of(module: LightningModule) -> LightningModule:
    """A deep copy of the module, without its Trainer."""
    try:
        return copy.deepcopy(module)
    except Exception as error:  # whatever an object of the user's raises when it is copied
        raise ConfigurationError(
            "learning_curve(module)",
            got=f"a {type(module).__name__} that cannot be copied: {sentence(error)}",
            expected="a module that copy.deepcopy copies",
            remedy="Keep what cannot be copied outside of it, or give its class a __deepcopy__.",
        ) from error


def trainer_class(module: LightningModule) -> type[Trainer] | None:
    """The Trainer of the Lightning package that the module is of; None for other objects."""
    return next((tree.Trainer for tree in TREES if isinstance(module, tree.LightningModule)), None)


def _trainer(module: LightningModule, arguments: Mapping[str, Any], readings: Readings) -> Trainer:
    kind = trainer_class(module)
    assert kind is not None, "checked before the first part"
    given = arguments.get("callbacks") or []
    callbacks = [each for each in (given if isinstance(given, list) else [given]) if not _only_shows_or_saves(each)]
    try:
        copied = copy.deepcopy(callbacks)
        trainer = kind(**{**_QUIET, **arguments, "callbacks": [*copied, readings]})
    except Exception as error:  # Lightning raises errors of many types
        raise _unsuited(sentence(error)) from error
    if trainer.world_size > 1 or trainer.strategy.launcher is not None:
        raise _unsuited(f"{type(trainer.strategy).__name__}, which starts processes")
    return trainer


def _only_shows_or_saves(callback: Any) -> bool:
    """Whether a callback of either Lightning package needs a logger or a terminal, or writes checkpoints."""
    return any(base.__name__ in _LEFT_OUT for base in type(callback).__mro__)


def _unsuited(got: str) -> ConfigurationError:
    return ConfigurationError(
        "learning_curve(trainer=)",
        got=got,
        expected="arguments of a Trainer of one process, with callbacks that can be copied",
        remedy="For example trainer=dict(max_epochs=20, accelerator='auto', devices=1).",
    )


def _failed(size: int, got: str) -> PartError:
    return PartError(
        f"learning_curve, training on {size} samples",
        got=got,
        expected="a training that ends, with an epoch at least",
        remedy="Finished parts are in the folder out=, where one was given; with it, the same call goes on from there.",
    )


def _part(found: Found, size: int, tested: int, seconds: float) -> Part:
    if found.whole is None or max(found.epochs, default=0) == 0:
        raise _failed(size, "a training without an epoch")
    train, test = found.whole
    epochs = tuple(found.epochs)
    return Part(size, tested, train, test, epochs, tuple(found.train), tuple(found.test), seconds)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def _nothing_changed() -> Iterator[None]:
    """Random streams, settings of torch, of the process and of Lightning's messages are as before at the end."""
    benchmark, main = torch.backends.cudnn.benchmark, threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    with ExitStack() as stack:
        for kept in (random_streams_kept(), settings_kept(), silence_lightning()):
            stack.enter_context(kept)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = benchmark
            if handler is not None:  # Lightning lets nobody interrupt it twice
                signal.signal(signal.SIGINT, handler)
