"""Lightning's classes, which exist twice: in the trees of `lightning.pytorch` and of `pytorch_lightning`.

A Trainer knows callbacks, modules and loggers of its own tree alone. So our callbacks inherit from every installed
tree, and what a user passes is told apart by the classes of every tree. `pytorch_lightning` is optional. It is imported
wherever it is installed, because a script may import it after this package.
"""

from __future__ import annotations

import logging
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard

import lightning.pytorch
from lightning.pytorch.utilities.rank_zero import rank_zero_module  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback as Callback
    from lightning.pytorch.callbacks import EarlyStopping as EarlyStopping
    from lightning.pytorch.callbacks import ModelCheckpoint

OTHER = "pytorch_lightning"


def _other_tree() -> ModuleType | None:
    """The second tree; None where it is not installed, or too broken or too old to be imported.

    Whichever tree is imported last takes Lightning's messages to its own logger. They stay with the tree that the
    user has imported.
    """
    log = logging.getLogger(f"{OTHER}.utilities.rank_zero") if OTHER in sys.modules else rank_zero_module.log
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = import_module(OTHER) if OTHER in sys.modules or find_spec(OTHER) else None
            if found is not None:
                import_module(f"{OTHER}.loggers")
    except Exception:  # no Trainer can be made of it either
        found = None
    rank_zero_module.log = log
    return found


def _trees() -> tuple[ModuleType, ...]:
    other = _other_tree()
    return (lightning.pytorch,) if other is None else (lightning.pytorch, other)


TREES = _trees()  # the first is there always


def _named(module: str, name: str) -> tuple[type[Any], ...]:
    """The class of that name in every tree."""
    return tuple(getattr(import_module(f"{tree.__name__}.{module}"), name) for tree in TREES)


_CALLBACKS = _named("callbacks", "Callback")
_EARLY_STOPPINGS = _named("callbacks", "EarlyStopping")
_MODEL_CHECKPOINTS = _named("callbacks", "ModelCheckpoint")
TENSORBOARD_LOGGERS = _named("loggers", "TensorBoardLogger")
WANDB_LOGGERS = _named("loggers", "WandbLogger")

if not TYPE_CHECKING:  # a type checker sees one tree

    def _inherited(name: str, first: type, *others: type) -> type:
        """A class that runs as the first one and is known to the trees of the others too.

        The initialisers of Lightning call that of the next class without arguments. The others must not miss them.
        The names are private, so that a command line does not take these for classes that a user may name.
        """
        silent = [type(f"_Other{name}", (other,), {"__init__": lambda self: None}) for other in others]
        return type(f"_{name}", (first, *silent), {"__module__": __name__, "__doc__": first.__doc__})

    Callback = _inherited("Callback", *_CALLBACKS)
    EarlyStopping = _inherited("EarlyStopping", *_EARLY_STOPPINGS)


def is_early_stopping(callback: object) -> TypeGuard[EarlyStopping]:
    """Whether a callback is an `EarlyStopping` of any tree."""
    return isinstance(callback, _EARLY_STOPPINGS)


def is_model_checkpoint(callback: object) -> TypeGuard[ModelCheckpoint]:
    """Whether a callback is a `ModelCheckpoint` of any tree."""
    return isinstance(callback, _MODEL_CHECKPOINTS)


def is_foreign(callback: Callback, trainer: object) -> bool:
    """Whether a callback is of another tree than the Trainer, which then takes it for a plain callback."""
    return not any(
        isinstance(trainer, tree.Trainer) and isinstance(callback, kind)
        for tree, kind in zip(TREES, _CALLBACKS, strict=True)
    )
