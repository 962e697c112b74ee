"""What a copy of a data set shares with the user's own: global objects and classes, put back after the reading."""

from __future__ import annotations

import functools
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gengap.samples.rewinding import GENERATORS, rewinding
from lightning_gengap.undisturbed import global_variables, restore_variables
from lightning_gengap.undisturbed.kinds import kinds_of
from lightning_gengap.undisturbed.objects import CLASS, user_classes

CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict, Counter)
_CACHE = functools._lru_cache_wrapper
_LARGE_KINDS = (torch.nn.Module, Tensor, np.ndarray, types.FunctionType)


@dataclass
class PutBack:
    """Puts back what was watched.

    Attributes:
        memo: that of `copy.deepcopy`; global generators stay themselves in it.
        steps: what is done to put things back, in this order.
        watched: functions, classes and global objects, by identity.
    """

    memo: dict[int, Any]
    steps: list[Callable[[], Any]] = field(default_factory=list)
    watched: dict[int, Any] = field(default_factory=dict)

    def __call__(self) -> None:
        """Put everything back."""
        for step in self.steps:
            step()

    def watch(self, function: types.FunctionType) -> None:
        """Put generators, counters and containers back that stand in the module of a function.

        They are global, so that no copy of them is read.
        """
        if id(function) in self.watched:
            return
        self.watched[id(function)] = function
        for name in function.__code__.co_names:
            self._rewind(function.__globals__.get(name))
        variables = global_variables(function)
        if variables:
            self.steps.append(partial(restore_variables, function, variables))
        for value in variables.values():
            if isinstance(value, types.FunctionType):
                self.watch(value)
            elif isinstance(value, type):
                self.watch_class(value)
            elif type(value) in CONTAINERS or isinstance(value, _CACHE):
                self._rewind(value)
            elif isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, _LARGE_KINDS):
                self._rewind(value.__dict__)

    def _rewind(self, held: Any) -> None:
        """Put one generator, container or cache of the user's own back after the block; not what it holds."""
        if id(held) not in self.watched and isinstance(held, (*GENERATORS, *CONTAINERS, _CACHE)):
            self.watched[id(held)] = held
            if isinstance(held, _CACHE) and isinstance(held.__wrapped__, types.FunctionType):
                self.watch(held.__wrapped__)
            if isinstance(held, GENERATORS):
                self.memo[id(held)] = held
                self.steps.append(rewinding(held))
            else:
                (kind,) = kinds_of(type(held))[:1]
                self.steps.append(partial(kind.restore, held, kind.save(held)))

    def watch_class(self, cls: type) -> None:
        """Put the data of a class and of its bases back, which may serve as counters."""
        for own in user_classes(cls):
            if id(own) not in self.watched:
                self.watched[id(own)] = own
                saved = CLASS.save(own)
                self.steps.append(partial(CLASS.restore, own, saved))
                for value in saved.values():
                    if isinstance(value, _CACHE):
                        self._rewind(value)
