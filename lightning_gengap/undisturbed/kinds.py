"""Which kind an object is of. One of no kind is not looked into: it cannot change, or it is not the model's."""

from __future__ import annotations

import enum
import types

import numpy as np
import torch
from torch import nn

from lightning_gengap.undisturbed.containers import CONTAINERS
from lightning_gengap.undisturbed.kind import Kind, is_looked_into, is_users
from lightning_gengap.undisturbed.objects import FUNCTIONS, SCRIPT, has_attributes, object_kind
from lightning_gengap.undisturbed.tables import TABLE, is_table


def kinds_of(cls: type) -> tuple[Kind, ...]:
    """The kinds of which objects of this class are: a container may have attributes beside its items."""
    if issubclass(cls, torch.jit.ScriptModule):
        return (object_kind(cls), SCRIPT)
    if issubclass(cls, nn.Module):
        return (object_kind(cls),)
    if issubclass(cls, enum.Enum):
        return (object_kind(cls),) if is_users(cls) else ()
    if issubclass(cls, torch.Tensor | type | types.ModuleType | np.generic):
        return ()
    if is_table(cls):
        return (object_kind(cls), TABLE)
    for bases, kind in (*CONTAINERS, *FUNCTIONS):
        if issubclass(cls, bases):
            return (kind, object_kind(cls)) if is_users(cls) and has_attributes(cls) else (kind,)
    return (object_kind(cls),) if is_looked_into(cls) and has_attributes(cls) else ()
